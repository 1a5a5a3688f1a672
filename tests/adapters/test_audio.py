"""Sounds as a model meets them: resampling, padding, log-mel frames, SpecAugment, encode(audio=…)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.adapters.audio_frontend import LogMel
from xmodal.adapters.audio_preprocess import AudioPreprocess, resample
from xmodal.adapters.encoder import Encoder
from xmodal.data.spectrogram import collate_masks, draw_masks, mask_spectrogram
from xmodal.errors import AdapterError
from xmodal.recipe import Augment


def tone(seconds, rate, hertz=440.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32), rate


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_099, 100, 700_001])
def test_a_tone_keeps_its_pitch_and_length_at_another_rate(rate):
    hertz = min(440.0, rate / 5)
    samples, _ = tone(0.5, rate, hertz)
    found = resample(torch.from_numpy(samples), rate, 16_000).numpy()
    assert len(found) == pytest.approx(8000, abs=max(2, 16_000 / rate + 1))
    expected, _ = tone(0.5, 16_000, hertz)
    edge = 1000
    assert np.abs(found[edge:7000] - expected[edge:7000]).max() < (0.02 if rate > 1000 else 0.2)


def test_resampling_is_torchaudios_and_the_same_rate_is_left_alone():
    samples = torch.from_numpy(tone(0.3, 44_100)[0])
    expected = torchaudio.functional.resample(samples, 44_100, 16_000)
    assert torch.allclose(resample(samples, 44_100, 16_000), expected, atol=1e-6)  # its kernel in float32
    assert resample(samples, 16_000, 16_000) is samples


def test_sounds_are_cut_in_the_middle_and_padded_with_a_mask():
    preprocess = pickle.loads(pickle.dumps(AudioPreprocess(8_000, max_seconds=0.5)))
    ramp = np.arange(16_000, dtype=np.float32), 8_000
    items = [preprocess({"audio": ramp}), preprocess({"audio": tone(0.25, 8_000)})]
    batch = preprocess.collate(items)
    assert batch["audio"].shape == batch["audio_mask"].shape == (2, 4000)
    assert batch["audio"][0].tolist() == list(range(6000, 10_000))
    assert batch["audio_mask"].sum(1).tolist() == [4000, 2000]
    assert batch["audio"][1, 2000:].abs().max() == 0
    assert (batch["audio"].dtype, batch["audio_mask"].dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize(
    "audio", ["sound", np.zeros(3), (np.zeros((2, 3)), 16_000), (np.zeros(0), 16_000), (np.zeros(3), 0), None]
)
def test_what_is_no_sound_is_refused(audio):
    with pytest.raises(AdapterError, match="sound is"):
        AudioPreprocess()({"audio": audio})


def test_log_mel_is_torchaudios_power_in_logarithm():
    frontend = LogMel(16_000, 40, mean=-4.0, std=3.0)
    samples = torch.from_numpy(tone(0.5, 16_000)[0])[None]
    found, own = frontend(samples)
    expected = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40, pad_mode="constant"
    )(samples)
    assert found.shape == (1, 40, 51)
    assert own.all()
    assert torch.allclose(found, (expected.clamp(min=1e-10).log() + 4) / 3, atol=1e-5)
    loudest = torchaudio.functional.melscale_fbanks(257, 0, 8000, 40, 16_000)[14].argmax()  # 440 Hz is bin 14
    assert found[0, :, 25].argmax() == loudest


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_padded_sound_has_the_frames_it_has_alone(lengths, seed):
    frontend = LogMel(8_000, 16)
    generator = torch.Generator().manual_seed(seed)
    sounds = [torch.randn(length, generator=generator) for length in lengths]
    batch = AudioPreprocess(8_000).collate([{"audio": sound} for sound in sounds])
    garbage = torch.where(batch["audio_mask"], batch["audio"], torch.nan)  # whatever stands in the padding
    together, own = frontend(garbage, batch["audio_mask"])
    assert own.sum(1).tolist() == [1 + length // 80 for length in lengths]
    assert own.shape[1] == together.shape[2] == 1 + max(lengths) // 80
    for row, sound in enumerate(sounds):
        alone, _ = frontend(sound[None])
        assert torch.allclose(together[row, :, own[row]], alone[0], atol=1e-4)
        assert (together[row, :, ~own[row]] == 0).all()


def test_log_mel_is_saved_with_the_model_and_computed_in_float32():
    frontend = LogMel(16_000, 40, mean=-4.0, std=3.0)
    assert {"mean", "std", "mel.mel_scale.fb", "mel.spectrogram.window"} <= set(frontend.state_dict())
    other = LogMel(**{**frontend.options, "mean": 0.0})
    other.load_state_dict(frontend.state_dict())
    samples = torch.from_numpy(tone(0.2, 16_000)[0])[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = other(samples)[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, frontend(samples)[0])
    with pytest.raises(AdapterError, match="0 ≤ low < high"):
        LogMel(16_000, high=9000.0)


# SpecAugment

MASKED = Augment(time_masks=2, time_mask=0.2, frequency_masks=1, frequency_mask=0.5)


def test_masks_are_drawn_by_seed_view_and_key_within_their_lengths():
    def drawn(seed=0, view=0, key="a"):
        return draw_masks(MASKED, seed=seed, view=view, key=key)

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=1), drawn(view=1), drawn(key="b")}) == 4
    many = [drawn(key=str(key)) for key in range(300)]
    times = np.array([span for masks in many for span in masks.time])
    bands = np.array([span for masks in many for span in masks.frequency])
    assert (len(times), len(bands)) == (600, 300)
    for spans, longest in ((times, 0.2), (bands, 0.5)):
        lengths = spans[:, 1] - spans[:, 0]
        assert spans.min() >= 0
        assert spans.max() <= 1
        assert lengths.max() <= longest
        assert np.quantile(lengths, 0.5) == pytest.approx(longest / 2, abs=0.05)
    assert draw_masks(Augment(), seed=0, view=0, key="a") is None
    more = MASKED.model_copy(update={"time_masks": 3})
    assert draw_masks(more, seed=0, view=0, key="a").frequency == drawn().frequency


def test_masked_parts_are_blank_and_others_untouched():
    spectrogram = torch.randn(2, 10, 20)
    time, frequency = torch.tensor([[[0.1, 0.3]], [[0.5, 0.5]]]), torch.tensor([[[0.0, 0.2]], [[0.9, 1.0]]])
    found = mask_spectrogram(spectrogram, torch.tensor([10, 20]), time, frequency)
    blank = torch.zeros(2, 10, 20, dtype=torch.bool)
    blank[0, :, 1:3] = blank[0, :2] = blank[1, 9:] = True  # shares of the sound's own ten frames, not of the padding
    assert torch.equal(found == 0, blank)
    assert torch.equal(found[~blank], spectrogram[~blank])


class Listener(Encoder):
    """The mean log-mel frame."""

    def __init__(self):
        super().__init__()
        self.name, self.modalities, self.embed_dim = "listener", ("audio",), 16
        self.preprocess = AudioPreprocess(8_000)
        self.frontend = LogMel(8_000, 16)
        self.model = torch.nn.Linear(16, 16)

    def taps(self):
        return ("audio.embedding",)

    def compute(self, inputs, taps):
        frames, own = self.frontend.of(inputs)
        return {"audio.embedding": self.model(frames.sum(-1) / own.sum(1, keepdim=True))}

    def identity(self):
        return "listener"


def test_encode_takes_sounds_of_unlike_rates_and_lengths():
    listener = Listener()
    sounds = [tone(0.5, 8_000), tone(1.0, 16_000), tone(0.2, 8_000, 1000.0)]
    together = listener.encode(audio=sounds)["audio.embedding"]
    assert together.shape == (3, 16)
    for row, sound in enumerate(sounds):
        assert torch.allclose(together[row], listener.encode(audio=[sound])["audio.embedding"][0], atol=1e-4)
    with pytest.raises(AdapterError, match="encodes audio"):
        listener.encode(text=["a sound"])


def test_spectrograms_are_masked_in_training_alone():
    listener = Listener()
    masks = [draw_masks(MASKED, seed=0, view=0, key=key) for key in "ab"]
    items = [listener.preprocess({"audio": tone(0.5, 8_000), "spectrogram_masks": each}) for each in masks]
    batch = listener.preprocess.collate(items)
    assert {name: tuple(tensor.shape) for name, tensor in collate_masks(masks).items()} == {
        "audio_time_masks": (2, 2, 2),
        "audio_frequency_masks": (2, 1, 2),
    }
    listener.train()
    masked = listener.frontend.of(batch)[0]
    listener.eval()
    whole = listener.frontend.of(batch)[0]
    blank = masked == 0
    assert 0.05 < blank.float().mean() < 0.9
    assert torch.equal(masked[~blank], whole[~blank])
    assert (whole != 0).all()
    assert not torch.equal(blank[0], blank[1])


def test_a_sample_without_masks_beside_masked_ones_is_left_whole():
    both = collate_masks([draw_masks(MASKED, seed=0, view=0, key="a"), None])
    found = mask_spectrogram(torch.ones(2, 10, 50), torch.tensor([50, 50]), *both.values())
    assert (found[0] == 0).any()
    assert (found[1] == 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_computes_the_same_frames():
    frontend = LogMel(16_000, 64)
    batch = AudioPreprocess(16_000).collate([{"audio": torch.randn(n)} for n in (16_000, 7000)])
    found, own = frontend.cuda()(batch["audio"].cuda(), batch["audio_mask"].cuda())
    expected, own_too = frontend.cpu()(batch["audio"], batch["audio_mask"])
    assert torch.equal(own.cpu(), own_too)
    assert torch.allclose(found.cpu(), expected, atol=1e-3)
