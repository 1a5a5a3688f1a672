"""Several teachers as one: each sees the same sample its own way, and their embeddings and classes are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features, Preprocess, Sample, finish, gather
from xmodal.adapters.ensemble_taps import member_taps
from xmodal.adapters.identity import digest
from xmodal.adapters.preprocess import JoinedPreprocess
from xmodal.adapters.registration import TEACHERS, create_teacher
from xmodal.errors import AdapterError, XmodalError

Mode = Literal["mean", "concat"]
_MODES = ("mean", "concat")


class MemberPreprocess:
    """A member's own preprocessing, its inputs under names of their own: ``image.0.image``, ``text.1.text_ids``.

    The modality stays at the head of a name, for that is how a batch knows which inputs belong to which.
    """

    def __init__(self, inner: Preprocess, member: int, modalities: Sequence[str]) -> None:
        self.inner, self.member = inner, member
        self.fields = inner.fields
        self.modalities = tuple(field for field in self.fields if field in modalities) or tuple(modalities)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        return self._renamed(self.inner(sample))

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.finish(self.gather(items))

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self._renamed(gather(self.inner, [self._own(item) for item in items]))

    def finish(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """This member's inputs, finished, among those of the others."""
        others = {name: value for name, value in inputs.items() if not self._is_own(name)}
        own = self._own(inputs)
        return {**others, **self._renamed(finish(self.inner, own))} if own else others

    def is_in(self, item: Mapping[str, Any]) -> bool:
        """Whether a sample had what this member reads."""
        return any(map(self._is_own, item))

    def _renamed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{self._modality(name)}.{self.member}.{name}": value for name, value in inputs.items()}

    def _modality(self, name: str) -> str:
        if len(self.modalities) == 1:
            return self.modalities[0]
        return next((modality for modality in self.modalities if name.startswith(modality)), "every")

    def _is_own(self, name: str) -> bool:
        head, _, rest = name.partition(".")
        return rest.startswith(f"{self.member}.") and head in (*self.modalities, "every")

    def _own(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name.split(".", 2)[2]: value for name, value in inputs.items() if self._is_own(name)}

    def __repr__(self) -> str:
        return f"MemberPreprocess({self.member}, {self.inner!r})"


class EnsemblePreprocess(JoinedPreprocess):
    """The members' preprocessings of one sample; those of a field that it lacks are left out."""

    parts: tuple[MemberPreprocess, ...]

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for part in self.parts:
            if part.is_in(items[0]):
                batch.update(part.gather(items))
        return batch


class EnsembleTeacher(Encoder):
    """``members`` side by side; the taps that several have are put together, and each member's own are within reach.

    Taps: ``<modality>.embedding`` [B, D] over all members of that modality: the weighted mean of their embeddings
    (``mode`` "mean", equal widths), or all side by side ("concat"), each of length one first with ``normalize``.
    Side by side they are scaled by the roots of the weights' shares, so that the cosine of two ensemble embeddings is
    the weighted mean of the members' cosines. ``logits`` [B, C]: the log of the weighted mean of the members' softmax.
    A tap of one member of several, such as ``image.hidden.3`` of the first, is ``image.part.0.hidden.3``, its embedding
    ``image.part.0``, its classes ``logits.part.0``. The taps of a member that alone has a modality keep their names.
    """

    preprocess: EnsemblePreprocess

    def __init__(
        self,
        members: Sequence[Encoder],
        weights: Sequence[float] | None = None,
        mode: Mode = "mean",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(members)
        self.mode, self.normalize = mode, normalize
        if not members:
            raise AdapterError("An ensemble needs at least one teacher.")
        if mode not in _MODES:
            raise AdapterError(f"An ensemble's mode is {' or '.join(_MODES)}; given {mode!r}.")
        if len(self.weights) != len(members) or not all(
            weight > 0 and math.isfinite(weight) for weight in self.weights
        ):
            raise AdapterError(
                f"An ensemble of {len(members)} teachers needs as many weights, each above 0; given "
                f"{list(self.weights)}."
            )
        self.members = nn.ModuleList(members)
        self.name = f"ensemble ({', '.join(member.name for member in members)})"
        self.modalities = tuple(dict.fromkeys(modality for member in members for modality in member.modalities))
        self._places = member_taps([member.taps() for member in members])
        self.preprocess = EnsemblePreprocess(
            [
                MemberPreprocess(part, number, member.modalities)
                for number, member in enumerate(members)
                for part in _parts(member.preprocess)
            ]
        )
        widths = {modality: self._width(modality) for modality in self.modalities}
        self.embed_dim = widths[self.modalities[0]] if len(set(widths.values())) == 1 else None

    @property
    def model(self) -> nn.ModuleList:  # type: ignore[override]
        """The libraries' own modules, in the members' order."""
        return nn.ModuleList(member.model for member in self._encoders())

    def taps(self) -> tuple[str, ...]:
        return tuple(self._places)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        asked: dict[int, dict[str, None]] = {}
        for tap in taps:
            for number, own in self._places[tap]:
                asked.setdefault(number, {})[own] = None
        encoders = self._encoders()
        found = {number: encoders[number](_inputs_of(inputs, number), tuple(own)) for number, own in asked.items()}
        features: Features = {}
        for tap in taps:
            numbers = [number for number, _ in self._places[tap]]
            tensors = [found[number][own] for number, own in self._places[tap]]
            features[tap] = tensors[0] if len(tensors) == 1 else self._together(tap, tensors, numbers)
        return features

    def _together(self, tap: str, tensors: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
        total = sum(self.weights[number] for number in numbers)
        shares = [self.weights[number] / total for number in numbers]
        if tap == "logits":
            self._check_alike(tap, tensors, numbers)
            weighted = [z.float().log_softmax(-1) + math.log(share) for z, share in zip(tensors, shares, strict=True)]
            return torch.stack(weighted).logsumexp(0)
        rows = [nn.functional.normalize(tensor, dim=-1) if self.normalize else tensor for tensor in tensors]
        if self.mode == "concat":
            return torch.cat([row * math.sqrt(share) for row, share in zip(rows, shares, strict=True)], dim=-1)
        self._check_alike(tap, tensors, numbers)
        return torch.stack([row * share for row, share in zip(rows, shares, strict=True)]).sum(0)

    def _check_alike(self, tap: str, tensors: Sequence[Tensor], numbers: Sequence[int]) -> None:
        if len({tensor.shape for tensor in tensors}) > 1:
            encoders = self._encoders()
            told = ", ".join(f"{encoders[n].name} {list(t.shape)}" for n, t in zip(numbers, tensors, strict=True))
            raise AdapterError(f"{tap} of an ensemble is a mean over tensors of one shape; they are {told}.")

    def _width(self, modality: str) -> int | None:
        """Width of ``<modality>.embedding``. Raises :class:`AdapterError` for a mean of unlike widths."""
        encoders, tap = self._encoders(), f"{modality}.embedding"
        numbers = [number for number, _ in self._places.get(tap, ())]
        widths = [encoders[number].embed_dim for number in numbers]
        if not widths or None in widths:
            return None
        if self.mode == "mean" and len(set(widths)) > 1:
            told = ", ".join(f"{encoders[number].name} {encoders[number].embed_dim}" for number in numbers)
            raise AdapterError(
                f"The {modality} embeddings of an ensemble cannot be averaged: {told} dimensions. Take mode: concat, "
                f"or the members one by one: {modality}.part.0, …"
            )
        known = [width for width in widths if width is not None]
        return sum(known) if self.mode == "concat" else known[0]

    def _encoders(self) -> list[Encoder]:
        return list(self.members)  # type: ignore[arg-type]

    def identity(self) -> str:
        return digest(
            kind="ensemble",
            members=[member.identity() for member in self._encoders()],
            weights=self.weights,
            mode=self.mode,
            normalize=self.normalize,
        )


def _parts(preprocess: Preprocess) -> tuple[Preprocess, ...]:
    """What a joined preprocessing is made of, so that a sample need not have all of its fields."""
    if type(preprocess) is JoinedPreprocess:
        return tuple(inner for part in preprocess.parts for inner in _parts(part))
    return (preprocess,)


def _inputs_of(inputs: Mapping[str, Tensor], member: int) -> dict[str, Tensor]:
    own = [(name.split(".", 2), tensor) for name, tensor in inputs.items()]
    return {parts[2]: tensor for parts, tensor in own if len(parts) == 3 and parts[1] == str(member)}


@TEACHERS.register("ensemble")
def ensemble(
    teachers: Sequence[Mapping[str, Any]],
    weights: Sequence[float] | None = None,
    mode: Mode = "mean",
    normalize: bool = True,
) -> EnsembleTeacher:
    """Several teachers as one; ``teachers`` lists their names with their options.

    ``weights``, one a teacher, are equal by default. ``mode``: ``mean`` of embeddings of one width, or ``concat``;
    ``normalize`` makes every embedding of length one first. See :class:`EnsembleTeacher` for its taps.
    """
    members = []
    for number, spec in enumerate(teachers):
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise AdapterError(f"teachers.{number} of an ensemble is {{name: …, options}}; given {spec!r:.80}")
        options = {option: value for option, value in spec.items() if option != "name"}
        try:
            members.append(create_teacher(spec["name"], **options))
        except XmodalError as error:
            raise AdapterError(f"teachers.{number}: {error}") from error
    return EnsembleTeacher(members, weights, mode, normalize)
