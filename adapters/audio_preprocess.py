"""What turns a decoded sound into a model's input: its rate, its longest length, padding with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from xmodal.adapters.encoder import Sample
from xmodal.data.audio import middle
from xmodal.data.spectrogram import collate_masks
from xmodal.errors import AdapterError

_FINEST = 1000
"""Rates are taken as a ratio of numbers up to this: all usual ones are, and a kernel for odd ones would fill memory."""


class AudioPreprocess:
    """Mono samples at ``rate`` Hz, at most ``max_seconds`` of them from the middle, padded with zeros on the right.

    Inputs: ``audio`` float32 ``[B, samples]``, ``audio_mask`` bool ``[B, samples]``, True where a sound is its own;
    in training with SpecAugment ``audio_time_masks`` and ``audio_frequency_masks`` too.
    """

    fields: tuple[str, ...] = ("audio",)

    def __init__(self, rate: int = 16_000, max_seconds: float | None = None) -> None:
        if rate < 1 or (max_seconds is not None and max_seconds <= 0):
            raise AdapterError(f"Sounds need a rate and a length above 0; given {rate} Hz, {max_seconds} s.")
        self.rate, self.max_seconds = rate, max_seconds

    def __call__(self, sample: Sample) -> dict[str, Any]:
        samples, rate = _checked(sample["audio"])
        if self.max_seconds is not None:
            samples, rate = middle((samples, rate), self.max_seconds)
        item: dict[str, Any] = {"audio": resample(torch.from_numpy(samples.copy()), rate, self.rate)}
        if sample.get("spectrogram_masks") is not None:
            item["spectrogram_masks"] = sample["spectrogram_masks"]
        return item

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        sounds = [item["audio"] for item in items]
        lengths = torch.tensor([len(sound) for sound in sounds])
        batch = {
            "audio": torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True),
            "audio_mask": torch.arange(int(lengths.max())) < lengths[:, None],
        }
        masks = [item.get("spectrogram_masks") for item in items]
        if any(masks):
            batch.update(collate_masks(masks))
        return batch

    def __repr__(self) -> str:
        return f"AudioPreprocess(rate={self.rate}, max_seconds={self.max_seconds})"


def resample(samples: Tensor, rate: int, wanted: int) -> Tensor:
    """Samples ``[frames]`` from ``rate`` to ``wanted`` Hz, by torchaudio's windowed sinc; its kernel is kept."""
    ratio = Fraction(rate, wanted).limit_denominator(_FINEST)
    if ratio.numerator > _FINEST:
        ratio = 1 / Fraction(wanted, rate).limit_denominator(_FINEST)
    if ratio == 1:
        return samples
    resampled: Tensor = _resampler(ratio.numerator, ratio.denominator)(samples)
    return resampled


@lru_cache(maxsize=16)
def _resampler(numerator: int, denominator: int) -> Resample:
    return Resample(numerator, denominator)


def _checked(audio: Any) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    try:
        samples, rate = audio
        array = np.asarray(samples, dtype=np.float32)
        rate = int(rate)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"A sound is (samples, rate in Hz); given {type(audio).__name__}: {audio!r:.80}") from error
    if array.ndim != 1 or not array.size or rate < 1:
        raise AdapterError(f"A sound is mono samples [frames] and a rate; given the shape {array.shape}, {rate} Hz.")
    return array, rate
