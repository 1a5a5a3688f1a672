"""From samples to log-mel frames, on the model's device, for batches of sounds of unlike lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from xmodal.data.spectrogram import mask_spectrogram
from xmodal.errors import AdapterError


class LogMel(nn.Module):
    r"""The logarithm of a mel spectrogram, normalised by ``mean`` and ``std``.

    .. math:: \frac{\log(\max(M |S|^2, \text{floor})) - \text{mean}}{\text{std}}

    with :math:`S` the short-time Fourier transform over Hann windows of ``window`` seconds, every ``hop`` seconds, and
    :math:`M` the mel filters from ``low`` to ``high`` Hz (default: half the rate). Frame t is centred on sample t·hop;
    beyond its two ends a sound is silent, so that a padded one has the very frames it would have alone. Computed in
    float32 whatever the autocast state. Filters, window, mean and std are buffers: a checkpoint holds them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        rate: int = 16_000,
        num_mels: int = 64,
        *,
        window: float = 0.025,
        hop: float = 0.010,
        low: float = 0.0,
        high: float | None = None,
        floor: float = 1e-10,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "rate": rate, "num_mels": num_mels, "window": window, "hop": hop,
            "low": low, "high": high, "floor": floor, "mean": mean, "std": std,
        }  # fmt: skip
        if not 0 <= low < (high or rate / 2) <= rate / 2:
            raise AdapterError(f"LogMel: mel filters from {low} to {high} Hz; give 0 ≤ low < high ≤ {rate / 2:g}")
        self.rate, self.num_mels, self.floor = rate, num_mels, floor
        self.hop_length = max(1, round(hop * rate))
        window_length = max(2, round(window * rate))
        self.mel = MelSpectrogram(
            rate,
            n_fft=1 << (window_length - 1).bit_length(),
            win_length=window_length,
            hop_length=self.hop_length,
            f_min=low,
            f_max=high,
            n_mels=num_mels,
            center=True,
            pad_mode="constant",  # reflection would show a padded sound its padding
        )
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    def forward(
        self,
        audio: Float[Tensor, "batch samples"],
        mask: Bool[Tensor, "batch samples"] | None = None,
        time_masks: Float[Tensor, "batch time_masks 2"] | None = None,
        frequency_masks: Float[Tensor, "batch frequency_masks 2"] | None = None,
    ) -> tuple[Float[Tensor, "batch mels frames"], Bool[Tensor, "batch frames"]]:
        """Log-mel frames, and which of them are a sample's own; the others, and masked parts, are 0.

        ``mask`` is True at a sound's own samples, which stand at the front; without it all are. ``time_masks`` and
        ``frequency_masks`` are SpecAugment's, as shares (see :mod:`xmodal.data.spectrogram`).
        """
        lengths = torch.full((len(audio),), audio.shape[-1], device=audio.device) if mask is None else mask.sum(-1)
        with torch.autocast(audio.device.type, enabled=False):
            samples = audio.float()
            if mask is not None:
                samples = torch.where(mask, samples, 0.0)
            log_mel = (self.mel(samples).clamp(min=self.floor).log() - self.mean) / self.std
        frames = self.frames(lengths)
        own = torch.arange(log_mel.shape[-1], device=audio.device) < frames[:, None]
        log_mel = torch.where(own[:, None, :], log_mel, 0.0)
        return mask_spectrogram(log_mel, frames, time_masks, frequency_masks), own

    def of(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """:meth:`forward` of a batch as :class:`~xmodal.adapters.audio_preprocess.AudioPreprocess` makes it.

        Masks are for training alone: a module in eval mode leaves them out.
        """
        time, frequency = (
            inputs.get(f"audio_{name}_masks") if self.training else None for name in ("time", "frequency")
        )
        frames: tuple[Tensor, Tensor] = self(inputs["audio"], inputs.get("audio_mask"), time, frequency)
        return frames

    def frames(self, lengths: Tensor) -> Tensor:
        """How many frames sounds of so many samples have."""
        return 1 + lengths // self.hop_length

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())
