"""SpecAugment: stretches of time and bands of a spectrogram are blanked (Park et al. 2019, arXiv:1904.08779).

Drawn where the sample is read, as shares of its length and of the bands, so that they are the same parts for every
model, whatever its frames and bands; blanked on the device, in the front end of a model that is being trained. A frozen
teacher hears the whole sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from xmodal.data.hashing import stable_hash
from xmodal.recipe import Augment

if TYPE_CHECKING:
    from torch import Tensor

Spans = tuple[tuple[float, float], ...]
"""(start, end) of each, as shares from 0 to 1."""


@dataclass(frozen=True)
class SpectrogramMasks:
    """What is blanked of one sample's spectrogram."""

    time: Spans
    frequency: Spans


def draw_masks(settings: Augment, *, seed: int, view: int, key: str) -> SpectrogramMasks | None:
    """``time_masks`` spans up to ``time_mask`` long and ``frequency_masks`` up to ``frequency_mask`` wide; or None.

    Lengths are uniform from 0, starts uniform in what is left. Drawn from (seed, view, key).
    """
    if not settings.time_masks and not settings.frequency_masks:
        return None
    spans = []
    for axis, count, longest in (
        ("time", settings.time_masks, settings.time_mask),
        ("frequency", settings.frequency_masks, settings.frequency_mask),
    ):
        random = Random(stable_hash("spectrogram", axis, seed, view, key))
        lengths = [(random.random() * longest, random.random()) for _ in range(count)]
        spans.append(tuple((place * (1 - length), place * (1 - length) + length) for length, place in lengths))
    return SpectrogramMasks(time=spans[0], frequency=spans[1])


def collate_masks(masks: Sequence[SpectrogramMasks | None]) -> dict[str, Tensor]:
    """``audio_time_masks`` and ``audio_frequency_masks``, float32 ``[B, masks, 2]``: start and end of each.

    A sample without masks, such as the silence in place of a sound that another source lacks, gets empty ones.
    """
    import torch

    def stacked(spans: Sequence[Spans]) -> Tensor:
        most = max(map(len, spans))
        padded = [[*each, *([(0.0, 0.0)] * (most - len(each)))] for each in spans]
        return torch.tensor(padded, dtype=torch.float32).reshape(len(spans), most, 2)

    return {
        "audio_time_masks": stacked([each.time if each else () for each in masks]),
        "audio_frequency_masks": stacked([each.frequency if each else () for each in masks]),
    }


def mask_spectrogram(
    spectrogram: Tensor,
    lengths: Tensor,
    time: Tensor | None = None,
    frequency: Tensor | None = None,
    value: float = 0.0,
) -> Tensor:
    """``spectrogram`` ``[B, bands, frames]`` with the masked parts set to ``value``.

    ``lengths`` ``[B]`` are each sample's own frames, of which ``time`` ``[B, masks, 2]`` holds shares; ``frequency``
    likewise of the bands.
    """
    import torch

    bands, frames = spectrogram.shape[-2:]
    hidden = torch.zeros_like(spectrogram, dtype=torch.bool)
    if time is not None:
        hidden |= _covered(time * lengths[:, None, None], frames)[:, None, :]
    if frequency is not None:
        hidden |= _covered(frequency * bands, bands)[:, :, None]
    return torch.where(hidden, value, spectrogram)


def _covered(spans: Tensor, count: int) -> Tensor:
    """Which of ``count`` places lie in any of the spans ``[B, masks, 2]``: bool ``[B, count]``."""
    import torch

    places = torch.arange(count, device=spans.device)
    edges = spans.round()
    return ((places >= edges[..., :1]) & (places < edges[..., 1:])).any(dim=1)
