"""Endless training batches that resume exactly, and evaluation batches that hold every sample once."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from xmodal.adapters.encoder import Preprocess
from xmodal.data.bad_samples import BadSamples
from xmodal.data.batches import BadSample, Batch, EvalBatches, TrainBatches
from xmodal.data.decoders import DEFAULT_DECODER
from xmodal.data.mixing import mixes
from xmodal.data.mixture import Mix, Mixture, difference
from xmodal.data.plan import BLOCK_SIZE, WINDOW, Plan
from xmodal.data.reading import Reading
from xmodal.data.shards import ShardSet, open_shards
from xmodal.data.stream_sources import Train, count_samples, open_sources
from xmodal.data.uri import Shards
from xmodal.data.workers import load
from xmodal.errors import DataError
from xmodal.recipe import Augment


class TrainStream:
    """The batches of a :class:`Plan`, without end: decoded, augmented, preprocessed for every model.

    ``train`` is shards, or several sources by name (see :func:`~xmodal.data.stream_sources.open_sources`), which
    :class:`~xmodal.data.mixture.Mixture` mixes by their weights as ``mix`` says: whole batches of one source, or each
    batch of all. Each source keeps its own order, and an epoch of its own.

    ``preprocess`` maps a model's name to its preprocessing; all models see the same augmented sample. ``batch_size`` is
    that of all ranks together; this rank's part has ``batch_size / world_size`` samples. ``text`` is the member that
    holds the text, or a dotted path into a JSON one. ``image_size`` is the side of the augmented picture in pixels.
    ``views`` bounds how many augmentations a sample has; without it every epoch brings a new one. ``decoder`` names
    what decodes and resizes pictures. ``label`` is the member that holds the label, or a path into one; ``features``
    maps names to stored tensors, which the batch then has under these names, and ``texts`` names to further texts,
    for models whose preprocessing has them among its fields.

    Batches depend on the arguments that the plan is made of and on nothing else: not on ``num_workers``, nor on where
    the stream was stopped. The global random generators are left alone. Leaving the loop ends the workers; the next
    ``iter`` goes on at the batch after the last one received.

    A sample that cannot be decoded is replaced by the next of its slot, counted in ``num_bad``, and named in the file
    ``bad_samples``. Raises :class:`DataError` where more than ``max_bad_fraction`` of what was read are bad (looked at
    from 1 000 samples or one epoch on), a shard is broken, a worker dies, or sizes do not go together.
    """

    def __init__(
        self,
        train: Train,
        *,
        preprocess: Mapping[str, Preprocess],
        batch_size: int,
        seed: int = 0,
        mix: Mix = "batches",
        text: str = "txt",
        label: str = "cls",
        features: Mapping[str, str] | None = None,
        texts: Mapping[str, str] | None = None,
        image_size: int | None = None,
        augment: Augment = Augment(),  # noqa: B008 - frozen
        decoder: str = DEFAULT_DECODER,
        num_workers: int = 0,
        slots: int | None = None,
        block_size: int = BLOCK_SIZE,
        window: int = WINDOW,
        views: int | None = None,
        max_bad_fraction: float = 0.01,
        rank: int = 0,
        world_size: int = 1,
        bad_samples: Path | None = None,
        start_method: str | None = None,
    ) -> None:
        self.sources = open_sources(train, text, label=label, stored={**(features or {}), **(texts or {})})
        self.batch_size, self.seed = batch_size, seed
        weights = [source.weight for source in self.sources]
        self.mixture = Mixture([source.name for source in self.sources], weights, batch_size, mix=mix, seed=seed)
        self.plans = tuple(
            Plan(
                source.shards.counts,
                fingerprint=source.shards.fingerprint,
                batch_size=size,
                seed=seed,
                slots=slots,
                block_size=block_size,
                window=window,
            )
            for source, size in zip(self.sources, self.mixture.batch_sizes, strict=True)
        )
        if (
            mixes(augment)
            and world_size > 1
            and any(plan.slots == plan.batch_size == world_size for plan in self.plans)
        ):
            raise DataError(
                f"With mixup or cutmix a rank must have two samples of a batch to mix; batch_size {batch_size} on "
                f"{world_size} ranks leaves one. Enlarge the batch, or take fewer ranks."
            )
        self.plan_hash = self.mixture.hash(self.plans)
        own_samples = sum(len(plan.order.run(slot)) for plan in self.plans for slot in plan.slots_of(rank, world_size))
        self.num_workers, self.start_method = num_workers, start_method
        reading = Reading(seed, image_size, augment, views, decoder, label, features, texts)
        self._batches = TrainBatches(
            self.sources, self.mixture, self.plans, dict(preprocess), reading, rank, world_size
        )
        self._account = BadSamples(bad_samples, max_fraction=max_bad_fraction, enough=own_samples)
        self._position = 0
        self._iterator: weakref.ref[Generator[Batch, None, None]] | None = None

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks, broken ones included."""
        return count_samples(self.sources)

    @property
    def num_bad(self) -> int:
        """How many samples this process had to replace so far."""
        return self._account.count

    def probe(self, num_rows: int) -> Batch:
        """A few rows that have everything: each model's inputs from the first source that has them.

        Of several sources, rows of different ones may stand side by side. Moves nothing.
        """
        num_rows = min(num_rows, self.batch_size)
        merged: Batch = {}
        for number in range(len(self.sources)):
            few = self._batches.first(number, num_rows)
            views = merged.get("views", {})
            own = {name: {**view, **views.get(name, {})} for name, view in few["views"].items()}
            merged = {**few, **merged, "views": own}
        merged.pop("present", None)
        return merged

    def state(self) -> dict[str, Any]:
        """The whole state, as JSON would hold it. ``position`` counts what was received, over all ranks."""
        return {"plan": self.plan_hash, "seed": self.seed, "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken. Raises :class:`DataError` that says what differs where another plan was."""
        missing = {"plan", "seed", "position"} - set(state)
        if missing:
            raise DataError(
                f"The state of a stream has plan, seed and position; this one lacks {', '.join(sorted(missing))}."
            )
        changed = difference(self.plan_hash, str(state["plan"]))
        if state["seed"] != self.seed:
            changed.append(f"seed: {state['seed']} there, {self.seed} here")
        if changed:
            raise DataError(
                "The stream cannot go on from this state, which another plan has left: "
                f"{'; '.join(changed)}. Restore what was, or start a new run."
            )
        position = state["position"]
        if not isinstance(position, int) or position < 0 or position % self.batch_size:
            raise DataError(f"Position {position!r} is not at the start of a batch of {self.batch_size}.")
        self._close()
        self._position = position

    def __iter__(self) -> Iterator[Batch]:
        self._close()
        iterator = self._deliver()
        self._iterator = weakref.ref(iterator)  # weak: when the loop lets it go, its workers end
        return iterator

    def _deliver(self) -> Generator[Batch, None, None]:
        numbers = count(self._position // self.batch_size)
        loading = load(self._batches, numbers, num_workers=self.num_workers, start_method=self.start_method)
        with closing(loading):
            for loaded in loading:
                self._account.add(loaded.read, loaded.bad)
                assert loaded.batch is not None
                self._position += self.batch_size  # before it is handed over: then it counts as received
                yield loaded.batch

    def _close(self) -> None:
        """End the iterator handed out before, and its workers: two at once would share one position."""
        if self._iterator is not None and (iterator := self._iterator()) is not None:
            iterator.close()
        self._iterator = None


class EvalStream:
    """Every sample once, in the order of the shards, as decoded: not augmented, not resized but by each model itself.

    The last batch may be short. Samples that cannot be decoded are left out (their batch is then shorter), and listed
    in ``bad_samples`` as the iteration finds them. Arguments are those of :class:`TrainStream`.
    """

    def __init__(
        self,
        shards: Shards | ShardSet,
        *,
        preprocess: Mapping[str, Preprocess],
        batch_size: int,
        text: str = "txt",
        num_workers: int = 0,
        start_method: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1.")
        self.shards = open_shards(shards)
        self.num_workers, self.start_method = num_workers, start_method
        self._batches = EvalBatches(self.shards, dict(preprocess), text, batch_size)
        self.bad_samples: list[BadSample] = []

    @property
    def num_samples(self) -> int:
        """Samples of the shards, broken ones included."""
        return self.shards.num_samples

    @property
    def num_bad(self) -> int:
        """How many samples the last iteration left out so far."""
        return len(self.bad_samples)

    def __len__(self) -> int:
        """Batches of an iteration, where none is broken from end to end."""
        return -(-self.num_samples // self._batches.batch_size)

    def __iter__(self) -> Generator[Batch, None, None]:
        self.bad_samples = []
        loading = load(self._batches, range(len(self)), num_workers=self.num_workers, start_method=self.start_method)
        with closing(loading):
            for loaded in loading:
                self.bad_samples += loaded.bad
                if loaded.batch is not None:
                    yield loaded.batch
