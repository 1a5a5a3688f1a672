"""A shard's features while they are gathered: taps by batch, views side by side, checked for being finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder
from xmodal.data.cache.contract import TopK
from xmodal.data.cache.taps import blank_padding, keep_top, not_finite, parent_of_top, peak, side_by_side
from xmodal.errors import DataError


class Rows:
    """``start`` a batch of rows, ``add`` each of its views, ``end`` it; then take the ``tensors`` ``[N, K, …]``."""

    def __init__(self, teacher: Encoder, taps: Sequence[str], top_k: TopK | None, shard: str, wide: set[str]) -> None:
        self.teacher, self.taps, self.top_k, self.shard, self.wide = teacher, tuple(taps), top_k, shard, wide
        self.peaks: dict[str, float] = dict.fromkeys(taps, 0.0)
        self._chunks: dict[str, list[Tensor]] = {tap: [] for tap in taps}
        self._empty: dict[int, int] = {}  # chunk → rows of it, where none could be decoded
        self._views: dict[str, list[Tensor]] = {}
        self._count, self._good = 0, torch.zeros(0, dtype=torch.long)

    def start(self, count: int, good: Sequence[int]) -> None:
        """A batch of ``count`` rows, of which the ``good`` ones have features."""
        self._views = {tap: [] for tap in self.taps}
        self._count, self._good = count, torch.tensor(good, dtype=torch.long)

    def add(self, samples: Sequence[Mapping[str, Any]], taps: Sequence[str]) -> None:
        """One view of the good rows. Raises :class:`DataError` that names sample and tap where one is not finite."""
        for tap, tensor in run(self.teacher, samples, taps, self.top_k).items():
            bad = not_finite(tap, tensor)
            if bool(bad.any()):
                sample = samples[int(bad.nonzero()[0, 0])]
                raise DataError(
                    f"{self.teacher.name} gives NaN or infinity in {tap} for sample {sample['key']!r} of {self.shard} "
                    f"(view {sample['view']}); nothing was stored of this shard. Look at the sample: xmodal data check "
                    f"{self.shard}; or the weights are broken."
                )
            self.peaks[tap] = max(self.peaks[tap], peak(tensor))
            self._views[tap].append(tensor.half() if tensor.is_floating_point() and tap not in self.wide else tensor)

    def end(self) -> None:
        for tap, views in self._views.items():
            if not views:
                self._chunks[tap].append(torch.zeros(0))
                continue
            chunk = side_by_side([view.unsqueeze(1) for view in views], 1)
            if len(self._good) < self._count:
                chunk = chunk.new_zeros(self._count, *chunk.shape[1:]).index_copy(0, self._good, chunk)
            self._chunks[tap].append(chunk)
        if not len(self._good):
            self._empty[len(next(iter(self._chunks.values()), [])) - 1] = self._count

    def tensors(self) -> dict[str, Tensor]:
        """Tap → ``[N, K, …]``, float16 unless in ``wide``, then float32.

        Raises :class:`DataError` where no row has features.
        """
        joined = {}
        for tap, chunks in self._chunks.items():
            full = [chunk for number, chunk in enumerate(chunks) if number not in self._empty]
            if not full:
                raise DataError(
                    f"No sample of {self.shard} can be decoded for {self.teacher.name}: xmodal data check {self.shard}"
                )
            filled = [
                full[0].new_zeros(self._empty[number], *full[0].shape[1:]) if number in self._empty else chunk
                for number, chunk in enumerate(chunks)
            ]
            joined[tap] = side_by_side(filled, 0)
        return joined


@torch.no_grad()
def run(
    teacher: Encoder, samples: Sequence[Mapping[str, Any]], taps: Sequence[str], top_k: TopK | None
) -> dict[str, Tensor]:
    """The teacher's features of decoded samples, float32 on the CPU, padding blanked, logits reduced to their top."""
    device = next((parameter.device for parameter in teacher.parameters()), torch.device("cpu"))
    inputs = teacher.preprocess.collate([teacher.preprocess(sample) for sample in samples])
    asked = tuple(dict.fromkeys(parent_of_top(tap) or tap for tap in taps))
    features = teacher({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}, asked)
    found: dict[str, Tensor] = {}
    for tap, tensor in blank_padding(features).items():
        if tap in taps:
            found[tap] = tensor
        if top_k is not None and any(parent_of_top(name) == tap for name in taps):
            found.update(keep_top(tensor, tap, top_k))
    return {tap: (t.float() if t.is_floating_point() else t).cpu() for tap, t in found.items() if tap in taps}
