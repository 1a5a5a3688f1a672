"""From a batch's number to its tensors: what a loading worker runs, as a picklable map from number to batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset

from xmodal.adapters.encoder import Preprocess
from xmodal.data.augment import augment
from xmodal.data.decode import SampleError, decode
from xmodal.data.plan import Plan
from xmodal.data.shards import ShardSet
from xmodal.errors import DataError, XmodalError
from xmodal.recipe import Augment

Batch = dict[str, Any]
"""``key`` list of str; ``text`` list of str and ``label`` int64 ``[B]`` where every sample has them; ``views``: model
name → input name → tensor."""

_MAX_ATTEMPTS = 1000


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


class _Batches(Dataset[Loaded], ABC):
    """Batches by number. A user's mistake comes back as a value: raised in a worker, it would carry a traceback."""

    def __getitem__(self, number: int) -> Loaded:
        try:
            return self.load(number)
        except XmodalError as error:
            return Loaded(error=str(error))

    @abstractmethod
    def load(self, number: int) -> Loaded:
        """The batch of that number. Raises an XmodalError for data that stop the run."""


@dataclass
class TrainBatches(_Batches):
    """Batch k of a plan, this rank's part, augmented; broken samples replaced by the next ones of their slot."""

    shards: ShardSet
    plan: Plan
    preprocess: Mapping[str, Preprocess]
    text: str
    image_size: int | None
    augment: Augment
    views: int | None
    rank: int
    world_size: int

    def load(self, number: int) -> Loaded:
        positions = self.plan.positions(number, self.rank, self.world_size)
        loaded = Loaded(read=len(positions))
        samples = [self._sample(position, loaded.bad) for position in positions]
        loaded.batch = assemble(samples, self.preprocess)
        return loaded

    def _sample(self, position: int, bad: list[BadSample]) -> dict[str, Any]:
        slot = position % self.plan.slots
        attempts = min(_MAX_ATTEMPTS, len(self.plan.order.run(slot)))
        reason = ""
        for attempt in range(attempts):
            sample, epoch = self.plan.sample(position + attempt * self.plan.slots)
            view = epoch if self.views is None else epoch % self.views
            try:
                return self._decode(sample, view)
            except SampleError as error:
                reason = str(error)
                if attempt == 0:  # a broken replacement is named at its own position
                    bad.append(BadSample(error.key, error.shard, error.reason, position))
        raise DataError(
            f"Slot {slot} has no sample that can be decoded ({attempts} tried). The last: {reason}. "
            "Run `xmodal data check` on the shards, or set fewer data.slots if they are few."
        )

    def _decode(self, sample: int, view: int) -> dict[str, Any]:
        fields = fields_of(self.preprocess)
        decoded = decode(self.shards.read(sample), fields=fields, text=self.text, view=view, seed=self.plan.seed)
        if "image" in decoded:
            decoded["image"] = augment(
                decoded["image"], self.augment, size=self.image_size, seed=self.plan.seed, view=view, key=decoded["key"]
            )
        return decoded


@dataclass
class EvalBatches(_Batches):
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
                samples.append(decode(self.shards.read(row), fields=fields_of(self.preprocess), text=self.text))
            except SampleError as error:
                loaded.bad.append(BadSample(error.key, error.shard, error.reason, row))
        loaded.batch = assemble(samples, self.preprocess) if samples else None
        return loaded


def fields_of(preprocess: Mapping[str, Preprocess]) -> set[str]:
    """What has to be decoded for these models."""
    return {name for each in preprocess.values() for name in each.fields}


def assemble(samples: Sequence[dict[str, Any]], preprocess: Mapping[str, Preprocess]) -> Batch:
    """Decoded samples as a batch, with every model's own view of them."""
    batch: Batch = {"key": [sample["key"] for sample in samples]}
    if all("text" in sample for sample in samples):
        batch["text"] = [sample["text"] for sample in samples]
    if all("label" in sample for sample in samples):
        batch["label"] = torch.tensor([sample["label"] for sample in samples], dtype=torch.int64)
    batch["views"] = {model: each.collate([each(sample) for sample in samples]) for model, each in preprocess.items()}
    return batch
