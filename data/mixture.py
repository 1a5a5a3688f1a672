"""Several sources in one stream: whose samples batch k holds, as a pure function of k and the seed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal
from urllib.parse import quote

from xmodal.data.hashing import stable_hash
from xmodal.data.permutation import Permutation
from xmodal.data.plan import Plan
from xmodal.errors import DataError

Mix = Literal["batches", "samples"]
PERIOD = 1024
"""Batches after which every source has had its share, to the nearest whole batch."""


class Mixture:
    """An endless sequence of batches from several plans, in proportion to ``weights``.

    - ``batches``: a batch comes whole from one source. In every run of :data:`PERIOD` batches each source has a fixed
      number of them, in an order that the seed shuffles anew each time.
    - ``samples``: a batch holds a fixed number of samples of each source, one source after the other.

    Each source's own plan has the batch size that ``batch_sizes`` says. With one source the mixture is that source's
    plan. No state: :meth:`parts` computes from the number alone. Raises :class:`DataError` where a source's share comes
    to nothing.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float], batch_size: int, *, mix: Mix, seed: int) -> None:
        self.names, self.batch_size, self.mix, self.seed = tuple(names), batch_size, mix, seed
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1.")
        self.quotas = shares(weights, batch_size if mix == "samples" else PERIOD) if len(names) > 1 else (batch_size,)
        for name, quota, weight in zip(names, self.quotas, weights, strict=True):
            if quota == 0:
                whole = f"a batch of {batch_size} samples" if mix == "samples" else f"{PERIOD} batches"
                raise DataError(
                    f"Source {name!r} with weight {weight:g} of {sum(weights):g} gets nothing of {whole}. "
                    "Give it more weight" + (", a larger batch_size, or data.mix=batches." if mix == "samples" else ".")
                )
        self.batch_sizes = self.quotas if mix == "samples" else (batch_size,) * len(names)
        """Samples that a batch takes of each source where it takes any: the batch size of the source's own plan."""

    def parts(self, number: int) -> list[tuple[int, int]]:
        """(source, number of its own batch) for each part of batch ``number``."""
        if len(self.names) == 1:
            return [(0, number)]
        if self.mix == "samples":
            return [(source, number) for source in range(len(self.names))]
        period, place = divmod(number, PERIOD)
        sources, turns = _turns(self.quotas, self.seed, period)
        source = sources[place]
        return [(source, period * self.quotas[source] + turns[place])]

    def hash(self, plans: Sequence[Plan]) -> str:
        """All that the order depends on, apart from the seed, as ``name=value`` words."""
        if len(plans) == 1:
            return plans[0].hash
        words = [f"mix={self.mix}", f"batch_size={self.batch_size}"]
        for name, quota, plan in zip(self.names, self.quotas, plans, strict=True):
            safe = quote(name, safe="")  # no space and no equals sign, and no two names alike
            words += [f"{safe}.share={quota}", *(f"{safe}.{word}" for word in plan.hash.split())]
        return " ".join(words)


def difference(ours: str, theirs: str) -> list[str]:
    """What two hashes say differently, as ``name: theirs there, ours here``."""
    here, there = (dict(word.partition("=")[::2] for word in text.split()) for text in (ours, theirs))
    changed = [
        f"{name}: {there.get(name, 'unknown')} there, {here.get(name, 'unknown')} here"
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    ]
    return changed or ([] if ours == theirs else ["the order of the sources"])


def shares(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """``total`` cut in proportion to ``weights`` into whole numbers: rounded down, the rest to the largest remainders.

    >>> shares([2, 1, 1], 6)
    (3, 2, 1)
    """
    exact = [weight / sum(weights) * total for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for source in by_remainder[: total - sum(whole)]:
        whole[source] += 1
    return tuple(whole)


@lru_cache(maxsize=16)
def _turns(quotas: tuple[int, ...], seed: int, period: int) -> tuple[array[int], array[int]]:
    """For each place of a period: whose batch it is, and the how-manieth of that source in the period."""
    laid = [source for source, quota in enumerate(quotas) for _ in range(quota)]
    shuffle = Permutation(len(laid), stable_hash("mixture", seed, period))
    sources = array("q", (laid[shuffle(place)] for place in range(len(laid))))
    counts = [0] * len(quotas)
    turns = array("q")
    for source in sources:
        turns.append(counts[source])
        counts[source] += 1
    return sources, turns
