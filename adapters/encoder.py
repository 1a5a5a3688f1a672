"""The one protocol behind teachers and students: preprocess a sample, return the taps that were asked for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Self

from xmodal.adapters.modes import in_eval_mode
from xmodal.adapters.preprocessing import Preprocess, Sample, finish, gather
from xmodal.adapters.texts import TextsPreprocess, inputs_of
from xmodal.errors import AdapterError
from xmodal.taps import renamed, resolve_tap

__all__ = ["Encoder", "Features", "Preprocess", "Sample", "as_float32", "concatenate", "finish", "gather"]

Features = dict[str, Tensor]
"""What a model returns: tap → tensor."""


class Encoder(nn.Module, ABC):
    """A teacher or a student.

    Subclasses set ``name`` (for messages: ``"sentence (all-MiniLM-L6-v2)"``), ``modalities``
    (``("text",)``), ``preprocess``, ``model`` (the module of the library that it comes from) and, where one exists,
    ``embed_dim`` (width of ``<modality>.embedding``), and write :meth:`taps`, :meth:`compute` and :meth:`identity`.

    ``spec`` is the name and the options it was made with, ``metadata`` what a saved student says of itself.
    """

    name: str
    modalities: tuple[str, ...]
    preprocess: Preprocess
    model: nn.Module
    embed_dim: int | None = None
    frozen: bool = False
    made_as: str | None = None
    """``teacher`` or ``student``, where its ``spec`` makes it again under that name."""
    other_texts: tuple[str, ...] = ()
    """Names of further texts of a sample (``data.texts``) that this model reads as well, with taps of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.spec: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    def freeze(self) -> Self:
        """Eval mode and no gradients, for good: a later ``.train()`` leaves a frozen model as it is."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    @abstractmethod
    def taps(self) -> tuple[str, ...]:
        """Every tap that this model can return, layers numbered."""

    def every_tap(self) -> tuple[str, ...]:
        """:meth:`taps`, and those of the further texts."""
        own = self.taps()
        return (
            *own,
            *(renamed(tap, "text", name) for name in self.other_texts for tap in own if tap.startswith("text.")),
        )

    def read_texts(self, names: Sequence[str]) -> Self:
        """Read further texts of each sample too, where this model reads texts: ``english.embedding`` beside
        ``text.embedding``.
        """
        self.other_texts = tuple(names) if "text" in self.modalities else ()
        return self

    def learns(self, tap: str) -> bool:
        """Whether training can change a tap; what a locked student's body gives it cannot."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """The modalities, and the further texts."""
        return (*self.modalities, *self.other_texts)

    @property
    def viewing(self) -> Preprocess:
        """What makes this model's view of a sample with all the texts that it reads."""
        return TextsPreprocess(self.preprocess, self.other_texts) if self.other_texts else self.preprocess

    @abstractmethod
    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        """The taps, which exist, of a batch of this model's own inputs; nothing else is computed."""

    @abstractmethod
    def identity(self) -> str:
        """A short hash of weight files (or hub revision), preprocessing and precision: cheap, names a cache."""

    def forward(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        """Features for exactly the ``taps`` asked for, under the names they were asked by.

        ``inputs`` is this model's view of a batch, as ``viewing.collate`` makes it. Raises :class:`AdapterError` for a
        tap the model does not have.
        """
        every = self.every_tap()
        resolved = {tap: resolve_tap(tap, every, self.name) for tap in taps}
        features: Features = {}
        for name, own in self._by_text(resolved.values()).items():
            given = inputs_of(name, inputs) if self.other_texts else inputs
            found = self.compute(given, tuple(renamed(tap, name, "text") for tap in own))
            features |= {renamed(tap, "text", name) if name else tap: tensor for tap, tensor in found.items()}
        return {asked: features[tap] for asked, tap in resolved.items()}

    def _by_text(self, taps: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Distinct taps by the further text that they are of, "" for all others."""
        heads = {tap: tap.partition(".")[0] for tap in taps}
        groups: dict[str, list[str]] = {}
        for tap, head in heads.items():
            groups.setdefault(head if head in self.other_texts else "", []).append(tap)
        return {name: tuple(own) for name, own in groups.items()}

    @torch.no_grad()
    def encode(
        self,
        *,
        image: Sequence[Image.Image] | None = None,
        text: Sequence[str] | None = None,
        audio: Sequence[tuple[Any, int]] | None = None,
        taps: Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> Features:
        """Features of raw inputs, in eval mode, on the model's device, returned on the CPU.

        A sound is its mono samples ``[frames]`` and their rate in Hz. Without ``taps``, the embedding of each modality
        given. Several modalities must have one entry a sample.

        Raises :class:`AdapterError` where a modality is not one of this model's, or lengths differ.
        """
        fields = (("image", image), ("text", text), ("audio", audio))
        given = {field: values for field, values in fields if values is not None}
        wrong = [field for field in given if field not in self.modalities]
        if wrong or not given:
            raise AdapterError(
                f"{self.name} encodes {', '.join(self.modalities)}; given: {', '.join(given) or 'nothing'}."
            )
        lengths = {len(values) for values in given.values()}
        if len(lengths) > 1:
            raise AdapterError(f"Modalities of one call must have as many entries each; given {sorted(lengths)}.")
        asked = tuple(taps) if taps is not None else tuple(f"{field}.embedding" for field in given)
        device = next(self.parameters()).device
        chunks: list[Features] = []
        with in_eval_mode(self):
            for start in range(0, lengths.pop(), batch_size):
                samples = [
                    dict(zip(given, row, strict=True))
                    for row in zip(*(values[start : start + batch_size] for values in given.values()), strict=True)
                ]
                inputs = self.preprocess.collate([self.preprocess(sample) for sample in samples])
                features = self({name: tensor.to(device) for name, tensor in inputs.items()}, asked)
                chunks.append({tap: as_float32(tensor).cpu() for tap, tensor in features.items()})
        return concatenate(chunks)

    def state_hash(self) -> str:
        """SHA-256 over every parameter and buffer, names included: proves that a frozen model stayed frozen."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def as_float32(tensor: Tensor) -> Tensor:
    """Floating tensors in float32; masks and numbers as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def concatenate(chunks: Sequence[Features]) -> Features:
    """Batches of features as one; sequences of unlike lengths are padded with zeros on the right."""
    if not chunks:
        return {}
    joined: Features = {}
    for tap in chunks[0]:
        tensors = [chunk[tap] for chunk in chunks]
        if not tensors[0].ndim:  # a number of the model, such as logit_scale, and not of a sample
            joined[tap] = tensors[0]
            continue
        shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        padded = []
        for tensor in tensors:
            pad = [
                side
                for size, wanted in reversed(list(zip(tensor.shape[1:], shape, strict=True)))
                for side in (0, wanted - size)
            ]
            padded.append(nn.functional.pad(tensor, pad))
        joined[tap] = torch.cat(padded)
    return joined
