"""A user's own ``nn.Module`` as teacher or student: taps by module path, his own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.identity import digest
from xmodal.adapters.modes import in_eval_mode
from xmodal.adapters.module_preprocess import ModulePreprocess
from xmodal.adapters.module_taps import check_paths, original, run_with_taps, split_place
from xmodal.errors import AdapterError, first_line, hint

_MASK = "attention_mask"
MODALITIES = ("image", "text", "audio")
_TRIALS: dict[str, tuple[Any, Any]] = {
    "image": (Image.new("RGB", (320, 240), "white"), Image.new("RGB", (240, 320), "gray")),
    "text": ("a sad cat", "a happy dog"),
    "audio": ((np.zeros(16_000, dtype=np.float32), 16_000), (np.ones(16_000, dtype=np.float32), 16_000)),
}


class ModuleEncoder(Encoder):
    """``model`` with its taps at ``places``: tap → path of a module in it. Made by :func:`wrap_module`."""

    preprocess: ModulePreprocess

    def __init__(
        self, model: nn.Module, preprocess: ModulePreprocess, places: Mapping[str, str], name: str, version: str
    ) -> None:
        super().__init__()
        self.name, self.model, self.preprocess = name, model, preprocess
        self.modalities = (preprocess.modality,)
        self.places, self.version = dict(places), version
        self.masked = False
        if next(model.parameters(), None) is None:  # a model's parameters say which device it is on
            self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    @property
    def module_class(self) -> str:
        """The import path of the module's class."""
        kind = type(original(self.model))
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def _mask(self) -> str:
        return f"{self.preprocess.modality}.mask"

    def taps(self) -> tuple[str, ...]:
        return (*self.places, *((self._mask,) if self.masked and self._mask not in self.places else ()))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        args, kwargs = self.preprocess.arguments(inputs)
        places = {tap: self.places[tap] for tap in taps if tap in self.places}
        found = run_with_taps(self.model, places, args, kwargs, self.name) if places else {}
        features = {tap: _pooled(tensor) if tap.endswith(".embedding") else tensor for tap, tensor in found.items()}
        return {tap: features[tap] if tap in features else kwargs[_MASK].bool() for tap in taps}

    def identity(self) -> str:
        return digest(
            weights=self.state_hash(),
            dtype=str(next(self.parameters()).dtype),
            module=self.module_class,
            places=self.places,
            preprocess=repr(self.preprocess),
            version=self.version,
        )


def wrap_module(
    module: nn.Module,
    *,
    preprocess: Callable[..., Any],
    modality: Literal["image", "text", "audio"] = "image",
    taps: Mapping[str, str] | None = None,
    name: str | None = None,
    version: str = "",
) -> ModuleEncoder:
    """Any ``nn.Module`` as an encoder: a teacher or a student for :func:`xmodal.distill`.

    ``preprocess`` makes of one RGB picture (or of one sound, ``(samples, rate)``), or of a list of texts, the tensor
    that the module takes, or a mapping of tensors, its keyword arguments. ``taps`` maps taps to paths of modules in
    it: ``{"image.embedding": "pool", "image.map": "layer4"}``; by default its own output, "", is the embedding. Of an
    output that is a tuple the first tensor is taken; ``"PATH:1"`` and ``"PATH:last_hidden_state"`` take another part.
    Where the preprocess makes an ``attention_mask``, it is the tap ``text.mask`` as well.

    ``version`` is for you to change when the module's code does: caches made of the old one are refused then.

    The module is run once on two samples of our own, which is how widths and mistakes are found; it is not copied.
    Raises :class:`~xmodal.errors.AdapterError` for a path that it has not, a part that does not run or that returns no
    tensor with one entry a sample.
    """
    if modality not in MODALITIES:
        raise AdapterError(f"A module sees one of {', '.join(MODALITIES)}; given {modality!r}.")
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise AdapterError(f"Give the module within the {type(module).__name__}: xmodal spreads students itself.")
    owner = name or f"{type(original(module)).__name__}"
    places = dict(taps) if taps is not None else {f"{modality}.embedding": ""}
    _check_taps(places, modality, owner)
    check_paths(module, places, owner)
    encoder = ModuleEncoder(module, ModulePreprocess(modality, preprocess), places, owner, version)
    features = _try(encoder)
    embedding = features.get(f"{modality}.embedding")
    encoder.embed_dim = None if embedding is None else int(embedding.shape[1])
    return encoder


def _check_taps(places: Mapping[str, str], modality: str, owner: str) -> None:
    if not places:
        raise AdapterError(f'{owner} needs at least one tap: {{"{modality}.embedding": ""}} is its own output.')
    usual = [f"{modality}.{tap}" for tap in ("embedding", "features", "tokens", "map", "hidden.0", "mask")]
    for tap in places:
        if tap != "logits" and not tap.startswith(f"{modality}."):
            raise AdapterError(
                f"{tap!r} is no tap of a module of modality {modality!r}: they are called {modality}.… or logits. "
                f"{hint(tap, usual)}"
            )


def _pooled(tensor: Tensor) -> Tensor:
    """``[B, D]`` of what a pooling layer may leave as ``[B, D, 1, 1]``."""
    return tensor.flatten(1) if tensor.ndim > 2 and set(tensor.shape[2:]) == {1} else tensor


@torch.no_grad()
def _try(encoder: ModuleEncoder) -> Features:
    """All taps of two samples. Modes, statistics and the global random state stay as they are."""
    modality, owner = encoder.modalities[0], encoder.name
    with torch.random.fork_rng(devices=[]), in_eval_mode(encoder):
        items = [encoder.preprocess({"key": "", modality: trial}) for trial in _TRIALS[modality]]
        inputs = encoder.preprocess.collate(items)
        encoder.masked = _MASK in encoder.preprocess.arguments(inputs)[1]
        device = next(encoder.parameters()).device
        try:
            features: Features = encoder(
                {name: tensor.to(device) for name, tensor in inputs.items()}, list(encoder.places)
            )
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
            reason = first_line(error)
            raise AdapterError(
                f"{owner} does not take what its preprocess makes of two samples ({shapes}): {reason:.200}"
            ) from error
    for tap, tensor in features.items():
        place = split_place(encoder.places[tap])[0] or "its own output"
        if not tensor.ndim or len(tensor) != 2:
            raise AdapterError(
                f"{tap} ({place}) of {owner} is {list(tensor.shape)} for a batch of 2 samples; taps are [B, …], "
                "samples first. Take a module whose output is, or put one behind it that transposes."
            )
        if tap.endswith(".embedding") and tensor.ndim != 2:
            raise AdapterError(
                f"{tap} ({place}) of {owner} is {list(tensor.shape)} for a batch of 2; an embedding is [B, D]. Tap a "
                f"module behind the pooling, or call this {modality}.map or {modality}.tokens."
            )
    return features
