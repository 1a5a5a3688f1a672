"""A small open_clip CLIP with weights of a bigger one: what is asked for, and whether the two are of one family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from xmodal.adapters.inheritance import Rule, Shape, choose_embedding, inherit_tower
from xmodal.adapters.open_clip.loading import load_open_clip
from xmodal.adapters.open_clip.sources import open_clip_name_problem
from xmodal.errors import AdapterError, hint

_WORDS = {
    "layers": ("even", "spread", "first"),
    "channels": ("first", "important"),
    "heads": ("first", "important"),
    "norm": ("l1", "l2"),
}
_PROJECTIONS = ("proj", "text_projection", "text_projection.weight")
_TOWERS = ("image", "text")
_STUDENT, _BIG = "The student", "The model to inherit from"


def inherit_problems(given: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with the option ``inherit``: key (empty for the whole) and message."""
    if not isinstance(given, Mapping) or not isinstance(given.get("model"), str):
        yield "model", "is missing: the open_clip model whose weights are inherited"
        return
    if problem := open_clip_name_problem(given["model"]):
        yield "model", problem
    known = ("model", "pretrained", *_WORDS)
    for key, value in given.items():
        if key not in known:
            yield key, f"no such key. {hint(str(key), known)}"
        elif key in _WORDS and value not in _WORDS[key] and not (key == "layers" and _are_layers(value)):
            numbers = ", or numbers of layers, or both towers' by name (image, text)" if key == "layers" else ""
            yield key, f"{value!r} is none of {', '.join(_WORDS[key])}{numbers}"


def inherit_from(small: Any, given: Mapping[str, Any]) -> None:
    """Give ``small``, an open_clip model, weights and normalisation of the one that ``given`` names."""
    problems = [f"student.inherit.{key}: {message}" for key, message in inherit_problems(given)]
    if problems:
        raise AdapterError("\n".join(problems))
    from open_clip.model import resize_pos_embed, resize_text_pos_embed, set_model_preprocess_cfg

    big = load_open_clip(given["model"], pretrained=given.get("pretrained", True)).model
    state: dict[str, Any] = inherit_clip(small, big, {key: given[key] for key in _WORDS if key in given})
    resize_pos_embed(state, small)
    resize_text_pos_embed(state, small)
    small.load_state_dict(state)
    pictures = {**big.visual.preprocess_cfg, "size": small.visual.image_size}
    set_model_preprocess_cfg(small, pictures)


def inherit_clip(small: Any, big: Any, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict for ``small`` out of ``big``'s. ``options`` are those of :class:`~xmodal.adapters.inheritance.Rule`.

    ``layers`` may be a mapping of both towers'. Scale and bias come along. Positions are ``big``'s: open_clip
    interpolates them where ``small`` has others. Raises :class:`~xmodal.errors.AdapterError` where the two are not of
    one family, or a size does not fit.
    """
    layers = options.get("layers", "even")
    rule = Rule(**{**options, "layers": "even"})
    modules = {name: (_tower(small, name, _STUDENT), _tower(big, name, _BIG)) for name in _TOWERS}
    for name, (ours, theirs) in modules.items():
        _check_family(name, _nature(ours), _nature(theirs))
    states = {name: _state(theirs, big) for name, (_, theirs) in modules.items()}
    projections = [item for state in states.values() for item in state.items() if item[0] in _PROJECTIONS]
    shapes = {name: (_shape(ours), _shape(theirs)) for name, (ours, theirs) in modules.items()}
    size = shapes["image"][0].embedding
    if size > shapes["image"][1].embedding:
        raise AdapterError(f"An embedding of {size} cannot be inherited from one of {shapes['image'][1].embedding}.")
    embedding = choose_embedding(projections, size, rule)
    made = {name: tensor for name, tensor in big.state_dict().items() if name.startswith("logit_")}
    for name, (ours, _) in modules.items():
        own = replace(rule, layers=layers[name] if isinstance(layers, Mapping) else layers)
        tower = inherit_tower(states[name], shapes[name][1], shapes[name][0], own, embedding)
        prefix = _prefix(ours, small)
        made |= {f"{prefix}{part}": tensor for part, tensor in tower.items()}
    wanted = small.state_dict()
    unlike = sorted(name for name in set(wanted) ^ set(made) if not name.startswith("logit_"))
    if unlike:
        raise AdapterError(f"{_STUDENT} and the model to inherit from are not of one family: {', '.join(unlike[:5])}.")
    # a scale or a bias that only one of the two has stays, or is left out
    return {name: made.get(name, tensor) for name, tensor in wanted.items()}


def _tower(model: Any, name: str, owner: str) -> Any:
    """The module of a tower; of a plain CLIP's text, which has none of its own, the model."""
    from open_clip import transformer
    from open_clip.model import CLIP

    if hasattr(model, "text_decoder"):
        raise AdapterError(f"{owner} is a CoCa; only CLIP's two towers can be inherited.")
    tower = model.visual if name == "image" else model if isinstance(model, CLIP) else model.text
    known = (transformer.VisionTransformer, CLIP, transformer.TextTransformer)
    if not isinstance(tower, known):
        raise AdapterError(
            f"{owner} has the {name} tower {type(tower).__name__}; only open_clip's own VisionTransformer and "
            "TextTransformer can be inherited."
        )
    if getattr(tower, "attn_pool", None) is not None:
        raise AdapterError(f"{owner} pools its patches by attention, which cannot be inherited.")
    if name == "text" and tower.text_projection is None:
        raise AdapterError(
            f"{owner} has no projection behind its text tower, and cannot be inherited from, or inherit."
        )
    return tower


def _prefix(tower: Any, model: Any) -> str:
    return "" if tower is model else "visual." if tower is model.visual else "text."


def _state(tower: Any, model: Any) -> dict[str, Tensor]:
    """The tower's tensors by their names within it."""
    state: dict[str, Tensor] = tower.state_dict()
    if tower is not model:
        return state
    return {name: tensor for name, tensor in state.items() if not name.startswith(("visual.", "logit_"))}


def _shape(tower: Any) -> Shape:
    blocks = tower.transformer.resblocks
    neurons, width = blocks[0].mlp.c_fc.weight.shape
    projection = tower.proj if hasattr(tower, "proj") else tower.text_projection
    return Shape(len(blocks), int(width), blocks[0].attn.num_heads, int(neurons), _outputs(projection, int(width)))


def _outputs(projection: Any, width: int) -> int:
    if projection is None:
        return width
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])


def _nature(tower: Any) -> dict[str, Any]:
    """What no selection of weights changes."""
    block = tower.transformer.resblocks[0]
    is_image = hasattr(tower, "conv1")
    return {
        "patch size": tuple(tower.conv1.kernel_size) if is_image else None,
        "vocabulary": None if is_image else tower.token_embedding.num_embeddings,
        "pooling": tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type,
        "activation": type(block.mlp.gelu).__name__,
        "mask": None if is_image else tower.attn_mask is not None,
        "block": type(block).__name__,
    }


def _check_family(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for what, value in ours.items():
        if value != theirs[what]:
            raise AdapterError(
                f"The {name} tower cannot be inherited: the student's {what} is {value}, that of the model to inherit "
                f"from {theirs[what]}. Give student.model the same."
            )


def _are_layers(value: Any) -> bool:
    if isinstance(value, Mapping):
        return set(value) == set(_TOWERS) and all(v in _WORDS["layers"] or _are_layers(v) for v in value.values())
    return isinstance(value, Sequence) and not isinstance(value, str) and all(type(v) is int for v in value)
