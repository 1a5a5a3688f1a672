"""A teacher that is not loaded: what it said of every sample is read from a cache beside the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from xmodal.adapters.encoder import Encoder, Features, Sample, as_float32
from xmodal.adapters.registration import create_teacher
from xmodal.data.cache.contract import modalities_of
from xmodal.data.cache.lookup import Lookup
from xmodal.data.cache.taps import mask_of, pad_to, stack_rows, token_axes
from xmodal.errors import AdapterError, DataError


class CachedPreprocess:
    """Finds a sample's features by its shard, its key and its view, in the worker that loads it."""

    def __init__(
        self,
        lookup: Lookup,
        fields: Sequence[str],
        shapes: Mapping[str, Sequence[int]],
        modalities: Sequence[str],
    ) -> None:
        self.lookup, self.fields, self.shapes = lookup, tuple(fields), dict(shapes)
        self.modalities = tuple(modalities)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        if "shard" not in sample or "view" not in sample:
            raise AdapterError(
                "A cached teacher knows the samples of its shards alone. For others take the teacher itself: .real()"
            )
        found = dict(self.lookup(sample["shard"], sample["key"], sample["view"]))
        for tap in self.shapes:
            if tap not in found:
                self._refuse_gap(tap, sample)
        return found

    def _refuse_gap(self, tap: str, sample: Sample) -> None:
        """A sample without a tap stands for nothing, unless it has what the tap is of: then zeros would be learnt."""
        needed = modalities_of(tap, self.modalities)
        if needed and all(field in sample and not _is_blank(field, sample[field]) for field in needed):
            raise DataError(
                f"Sample {sample['key']!r} of shard {sample['shard']} has {' and '.join(needed)}, but its "
                f"source's cache has no {tap}: the source was said, or found, to have no such samples. Say what they "
                f"have: data.train.NAME.fields, and cache again. {self.lookup.mend}"
            )

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tap → ``[B, …]`` as stored; zeros for samples whose source has none, tokens cut at the longest text's end."""
        taps = [tap for tap in self.shapes if any(tap in item for item in items)]
        batch = {}
        for tap in taps:
            blank = next(item[tap] for item in items if tap in item).new_zeros(tuple(self.shapes[tap]))
            batch[tap] = stack_rows([item.get(tap, blank) for item in items])
        return _without_padding(batch)

    def __repr__(self) -> str:
        return f"CachedPreprocess({', '.join(self.shapes)})"


def _is_blank(field: str, value: Any) -> bool:
    """Whether a value is what a mixed batch puts in place of one that is not there."""
    from xmodal.data.batches import blank

    stand_in = blank(field)
    if field == "image":
        return bool(value.size == stand_in.size and value.getbbox() is None)
    if field == "audio":
        return bool(value[1] == stand_in[1] and np.array_equal(value[0], stand_in[0]))
    return bool(value == stand_in)


def _without_padding(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sequences as long as the longest of the batch, which is how a tokenizer would have padded them."""
    trimmed = {}
    for tap, tensor in batch.items():
        mask = batch.get(mask_of(tap, list(batch)) or "")
        if mask is not None:
            real = mask.any(0).nonzero()
            longest = int(real.max()) + 1 if len(real) else 1
            axes = [axis + 1 for axis in token_axes(tap, tensor.ndim - 1)]
            width = mask.shape[1]
            shape = [width if axis in axes and size < width else size for axis, size in enumerate(tensor.shape)]
            tensor = pad_to(tensor, shape)
            for axis in axes:
                tensor = tensor.narrow(axis, 0, longest) if tensor.shape[axis] == width else tensor
        trimmed[tap] = tensor
    return trimmed


class CachedTeacher(Encoder):
    """Features from a cache, as float32, under the name and the identity of the teacher that they are of.

    ``teacher`` is what the cache's manifest says of it, ``aliases`` are taps asked for under other names than they are
    stored by (``text.hidden.-1``). No weights are loaded. What a cache cannot answer, such as a new text, the teacher
    itself does: :meth:`real` loads it at the first call.
    """

    preprocess: CachedPreprocess
    _place: Tensor

    def __init__(
        self, spec: Mapping[str, Any], teacher: Mapping[str, Any], lookup: Lookup, aliases: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.spec = dict(spec)
        self.made_as = "teacher"
        self.recorded = dict(teacher)
        self.name, self.modalities = str(teacher["name"]), tuple(teacher["modalities"])
        self.model = torch.nn.Identity()
        sidecar = lookup.first()
        shapes = {tap: sidecar.tensors[tap].shape[2:] for tap in lookup.taps if tap in sidecar.taps}
        self.preprocess = CachedPreprocess(lookup, teacher["fields"], shapes, self.modalities)
        embeddings = [shape for tap, shape in shapes.items() if tap.endswith(".embedding")]
        self.embed_dim = embeddings[0][-1] if embeddings else None
        self._aliases = {asked: stored for asked, stored in aliases.items() if asked != stored}
        self._real: list[Encoder] = []  # a list: a module would be moved, counted and saved with this one
        self.register_buffer("_place", torch.zeros(0), persistent=False)
        self.freeze()

    def taps(self) -> tuple[str, ...]:
        return (*self.preprocess.shapes, *self._aliases)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        features = {tap: inputs[self._aliases.get(tap, tap)] for tap in taps}
        return {tap: t.long() if t.dtype == torch.int32 else as_float32(t) for tap, t in features.items()}

    def read_texts(self, names: Sequence[str]) -> Self:
        """None: a cache holds what the teacher says of ``data.text``, and of no other text."""
        return self

    def identity(self) -> str:
        return str(self.recorded["identity"])

    def num_parameters(self) -> int:
        """Of the teacher that the features are of."""
        return int(self.recorded["parameters"])

    def real(self) -> Encoder:
        """The teacher itself, frozen, on this one's device; loaded at the first call, random states left as they are.

        Raises :class:`AdapterError` where it is no longer the one whose features are cached.
        """
        if not self._real:
            options = {name: value for name, value in self.spec.items() if name not in ("name", "cached")}
            with torch.random.fork_rng(devices=[]):
                teacher = create_teacher(str(self.spec["name"]), **options)
            if teacher.identity() != self.identity():
                raise AdapterError(
                    f"{teacher.name} is now {teacher.identity()}; its cache is of {self.identity()}: its weights or "
                    "its preprocessing changed. Restore them, or cache again."
                )
            self._real.append(teacher)
        return self._real[0].to(self._place.device)

    def encode(self, **inputs: Any) -> Features:
        """What the teacher itself makes of raw inputs, which are in no cache."""
        return self.real().encode(**inputs)


def real(encoder: Encoder) -> Encoder:
    """The model itself, where ``encoder`` is a cache of it."""
    return encoder.real() if isinstance(encoder, CachedTeacher) else encoder
