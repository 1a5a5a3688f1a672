"""timm networks by name: checked names, and weights from an installed package, the hub or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from xmodal.adapters.hub import cannot_fetch
from xmodal.adapters.packages import PACKAGES, Package
from xmodal.adapters.weights import load_into, read_weights
from xmodal.errors import AdapterError, first_line, hint

_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
_TEST_KEYS = ("test_input_size", "test_crop_pct", "test_pool_size", "min_input_size")


def timm_name_problem(model: str) -> str | None:
    """What is wrong with a timm name, nearest ones included; None where nothing is."""
    import timm

    if model.startswith(_SOURCES):
        return None
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        return f"{model!r} is not a timm model. {hint(name, timm.list_models())}"
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        return f"{name!r} has no weights tagged {tag!r} in timm. {hint(tag, tags)}"
    return None


def make_network(
    model: str,
    *,
    weights: bool | str | Path,
    num_classes: int | None = None,
    image_size: int | None = None,
    drop_path: float = 0.0,
    crop_pct: float | None = None,
) -> Any:
    """A timm network. ``weights``: True for timm's own trained ones, False for random ones, or a file or folder.

    ``num_classes`` None keeps the network's own classifier. The image size (pixels) and the crop's share asked for go
    into the network's ``pretrained_cfg``, so that timm's transforms for it follow.

    Raises :class:`~xmodal.errors.AdapterError` for a name that timm does not have and weights that cannot be had.
    """
    problem = timm_name_problem(model)
    if problem:
        raise AdapterError(problem)
    options: dict[str, Any] = {}
    if num_classes is not None:
        options["num_classes"] = num_classes
    if drop_path:
        options["drop_path_rate"] = drop_path
    if image_size and _has_fixed_size(model):
        options["img_size"] = image_size
    package = _package(model) if weights is True else None
    packaged = package.find() if package else None
    network = _create(model, pretrained=weights is True and packaged is None, **options)
    if package and packaged:
        state = _in_order(network, read_weights(packaged))
        load_into(network, _fitting(network, state), f"the package {package.distribution}", _classifiers(network))
    elif not isinstance(weights, bool):
        path = Path(weights).expanduser()
        load_into(network, _fitting(network, read_weights(path)), str(path), _classifiers(network))
    _set_input(network.pretrained_cfg, image_size, crop_pct)
    return network


def data_config(network: Any) -> dict[str, Any]:
    """What timm's transform for ``network`` is made from: input size, mean, std, interpolation, crop."""
    from timm.data import config

    resolve: Any = config.resolve_model_data_config
    return dict(resolve(network))


def _create(model: str, *, pretrained: bool, **options: Any) -> Any:
    import timm

    try:
        return timm.create_model(model, pretrained=pretrained, **options)
    except TypeError as error:
        raise AdapterError(f"timm's {model} does not take {', '.join(sorted(options))}: {error}") from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise AdapterError(_why_not(model, error)) from error


def _set_input(config: dict[str, Any], image_size: int | None, crop_pct: float | None) -> None:
    if image_size:
        config.update(input_size=(config["input_size"][0], image_size, image_size), pool_size=None)
    if crop_pct:
        config["crop_pct"] = crop_pct
    if image_size or crop_pct:  # what was advised for another size or crop
        for key in _TEST_KEYS:
            config.pop(key, None)


def _timm_config(model: str) -> Any | None:
    """timm's ``PretrainedCfg`` for a name with or without tag; None for a hub repository or a folder."""
    from timm.models import get_pretrained_cfg

    return None if model.startswith(_SOURCES) else get_pretrained_cfg(model)


def _has_fixed_size(model: str) -> bool:
    config = _timm_config(model)
    return bool(config is not None and config.fixed_input_size)


def _package(model: str) -> Package | None:
    """The package that carries timm's weights of that name and tag."""
    config = _timm_config(model)
    return PACKAGES.get(f"{model.partition('.')[0]}.{config.tag}") if config is not None else None


def _classifiers(network: Any) -> tuple[str, ...]:
    """Prefixes of the weights of the classifier: they may be missing from a file, for the head is new."""
    names = network.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _in_order(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same layers in the same order under other names: rename them. Loading checks that all shapes agree."""
    with torch.device("meta"):
        names = list(_create(network.pretrained_cfg["architecture"], pretrained=False).state_dict())
    if len(names) != len(state):
        raise AdapterError(f"The file holds {len(state)} tensors, timm's network {len(names)}: it is another network.")
    return dict(zip(names, state.values(), strict=True))


def _fitting(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without a classifier of another width: the network keeps its own, freshly made."""
    own, classifiers = network.state_dict(), _classifiers(network)
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith(classifiers) or (name in own and own[name].shape == tensor.shape)
    }


def _why_not(model: str, error: Exception) -> str:
    config = _timm_config(model)
    if config is not None and not config.has_weights:
        return f"timm has no trained weights for {model!r}. Take random ones, or give the path of a weight file."
    if not isinstance(error, OSError):
        return f"timm cannot make {model!r}: {first_line(error)}"
    name = (config.hf_hub_id if config is not None else None) or model.partition(":")[2] or model
    lines = [f"The weights of {model!r} cannot be loaded. {cannot_fetch(name, None, error)}"]
    package = _package(model)
    if package is not None:
        lines.append(f"A package carries them too: {package.pip}")
    return "\n".join(lines)
