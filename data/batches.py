"""From a batch's number to its tensors: what a loading worker runs, as a picklable map from number to batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from xmodal.adapters.encoder import Preprocess, finish, gather
from xmodal.data.decode import FIELDS, SampleError
from xmodal.data.mixing import mix_batch, mix_groups, mixes
from xmodal.data.mixture import Mixture
from xmodal.data.plan import Plan
from xmodal.data.reading import Reading, as_it_is
from xmodal.data.shards import ShardSet
from xmodal.data.stream_sources import StreamSource
from xmodal.data.upcoming import upcoming_in_plan
from xmodal.errors import DataError, XmodalError

Batch = dict[str, Any]
"""``key`` list of str; ``text`` list of str and ``label`` int64 ``[B]`` where every sample has them; ``views``: model
name → input name → tensor; ``present``: field → bool ``[B]``, for fields that some samples of a mixture lack."""

_MAX_ATTEMPTS = 1000
_UNCOUNTED = {"members", "reinforced"}
"""What a preprocess may ask for beside the fields that sources have or lack."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be decoded, and where it stood."""

    key: str
    shard: str
    reason: str
    position: int


@dataclass
class Loaded:
    """What comes out of a worker. ``batch`` is None where nothing of it could be decoded, or ``error`` is set."""

    batch: Batch | None = None
    read: int = 0
    bad: list[BadSample] = field(default_factory=list)
    error: str | None = None


class Batches(Dataset[Loaded], ABC):
    """Batches by number. A user's mistake comes back as a value: raised in a worker, it would carry a traceback."""

    preprocess: Mapping[str, Preprocess]

    def __getitem__(self, number: int) -> Loaded:
        try:
            return self.load(number)
        except XmodalError as error:
            return Loaded(error=str(error))

    @abstractmethod
    def load(self, number: int) -> Loaded:
        """The batch of that number. Raises an XmodalError for data that stop the run."""

    def finish(self, batch: Batch) -> Batch:
        """The batch with what its models' preprocessing leaves to the process that wants it, not to its workers."""
        views = {name: finish(self.preprocess[name], inputs) for name, inputs in batch["views"].items()}
        return {**batch, "views": views}


@dataclass
class TrainBatches(Batches):
    """Batch k of a mixture, this rank's part, augmented; broken samples replaced by the next ones of their slot."""

    sources: Sequence[StreamSource]
    mixture: Mixture
    plans: Sequence[Plan]
    preprocess: Mapping[str, Preprocess]
    reading: Reading
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        asked = fields_of(self.preprocess) | set(self.reading.features or ())
        self._several = len(self.sources) > 1
        # Who has what is a property of the source, not of the sample: else ranks would not agree on it.
        self._fields = [
            ((asked | {"text", "label"}) & source.fields) | (asked & _UNCOUNTED) if self._several else asked
            for source in self.sources
        ]

    def load(self, number: int) -> Loaded:
        loaded = Loaded()
        samples: list[dict[str, Any]] = []
        for source, batch in self.mixture.parts(number):
            plan, shards = self.plans[source], self.sources[source].shards
            if shards.has_remote:
                shards.prefetch(upcoming_in_plan(plan, batch, self.rank, self.world_size))
            positions = plan.positions(batch, self.rank, self.world_size)
            loaded.read += len(positions)
            own = [self._sample(source, position, loaded.bad) for position in positions]
            if mixes(self.reading.augment):  # before any model's own preprocessing: all see the same mixture
                groups = mix_groups(positions, slots=plan.slots, batch_size=plan.batch_size)
                own = mix_batch(own, self.reading.augment, seed=self.reading.seed, groups=groups)
            samples += own
        loaded.batch = assemble(samples, self.preprocess, mixed=self._several)
        return loaded

    def first(self, number: int, num_rows: int) -> Batch:
        """The first ``num_rows`` samples of one source's order, as a batch."""
        samples = [self._sample(number, position, []) for position in range(num_rows)]
        return self.finish(assemble(samples, self.preprocess, mixed=self._several))

    def _sample(self, number: int, position: int, bad: list[BadSample]) -> dict[str, Any]:
        source, plan, fields = self.sources[number], self.plans[number], self._fields[number]
        slot = position % plan.slots
        attempts = min(_MAX_ATTEMPTS, len(plan.order.run(slot)))
        reason = ""
        for attempt in range(attempts):
            sample, epoch = plan.sample(position + attempt * plan.slots)
            try:
                raw = source.shards.read(sample)
                found = self.reading(raw, fields=fields, text=source.text, view=self.reading.view(epoch))
                return {k: v for k, v in found.items() if k not in FIELDS or k in fields} if self._several else found
            except SampleError as error:
                reason = str(error)
                if attempt == 0:  # a broken replacement is named at its own position
                    shard = f"{source.name}/{error.shard}" if self._several else error.shard
                    bad.append(BadSample(error.key, shard, error.reason, position))
        raise DataError(
            f"Slot {slot} has no sample that can be decoded ({attempts} tried). The last: {reason}. "
            "Run `xmodal data check` on the shards, or set fewer data.slots if they are few."
        )


@dataclass
class EvalBatches(Batches):
    """Samples in shard order, as decoded; broken ones are left out."""

    shards: ShardSet
    preprocess: Mapping[str, Preprocess]
    text: str
    batch_size: int

    def load(self, number: int) -> Loaded:
        start = number * self.batch_size
        rows = range(start, min(start + self.batch_size, self.shards.num_samples))
        loaded = Loaded(read=len(rows))
        samples = []
        for row in rows:
            try:
                samples.append(as_it_is(self.shards.read(row), fields=fields_of(self.preprocess), text=self.text))
            except SampleError as error:
                loaded.bad.append(BadSample(error.key, error.shard, error.reason, row))
        loaded.batch = assemble(samples, self.preprocess) if samples else None
        return loaded


def fields_of(preprocess: Mapping[str, Preprocess]) -> set[str]:
    """What has to be decoded for these models."""
    return {name for each in preprocess.values() for name in each.fields}


def assemble(samples: Sequence[dict[str, Any]], preprocess: Mapping[str, Preprocess], *, mixed: bool = False) -> Batch:
    """Decoded samples as a batch, with every model's own view of them, still to be finished.

    Samples of a ``mixed`` stream may lack what others have. Then the batch says in ``present`` who has what, and blanks
    stand in the views in place of what is missing; what no sample has is in no view.
    """
    batch: Batch = {"key": [sample["key"] for sample in samples]}
    features = sorted({name for sample in samples for name in sample.get("features", ())})
    known = ("text", "label", *sorted(fields_of(preprocess) - _UNCOUNTED))
    there = {field: [field in sample for sample in samples] for field in known}
    there |= {name: [name in sample.get("features", ()) for sample in samples] for name in features}
    if all(there["text"]):
        batch["text"] = [sample["text"] for sample in samples]
    if mixed and (missing := {field: rows for field, rows in there.items() if not all(rows)}):
        batch["present"] = {field: torch.tensor(rows) for field, rows in missing.items()}
        partly = [field for field, rows in missing.items() if any(rows) and field not in features]
        samples = [{**{field: blank(field) for field in partly}, **sample} for sample in samples]
    if all("label" in sample for sample in samples):
        batch["label"] = torch.tensor([sample["label"] for sample in samples], dtype=torch.int64)
    for name in features:
        batch[name] = _stacked(name, samples)
    absent = {field for field, rows in there.items() if not any(rows)} if mixed else set()
    batch["views"] = {name: _view(each, samples, absent) for name, each in preprocess.items()}
    return batch


def _stacked(name: str, samples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The stored tensors of that name, zero where a sample has none."""
    having = [sample for sample in samples if name in sample.get("features", ())]
    shapes = {tuple(sample["features"][name].shape): sample["key"] for sample in having}
    if len(shapes) > 1:
        told = "; ".join(f"{key} has {list(shape)}" for shape, key in list(shapes.items())[:3])
        raise DataError(f"Features {name!r} of one batch differ in shape: {told}. Store them in one shape.")
    none = torch.zeros_like(having[0]["features"][name])
    return torch.stack([sample.get("features", {}).get(name, none) for sample in samples])


def blank(field: str) -> Any:
    """What stands where a sample lacks ``field``: a black picture, silence, a text without words, the label -1."""
    if field == "image":
        return Image.new("RGB", (8, 8))
    if field == "audio":
        return np.zeros(400, dtype=np.float32), 16_000
    return -1 if field == "label" else ""


def _view(preprocess: Preprocess, samples: Sequence[dict[str, Any]], absent: set[str]) -> dict[str, Any]:
    if preprocess.fields and absent.issuperset(preprocess.fields):
        return {}
    return gather(preprocess, [preprocess(sample) for sample in samples])
