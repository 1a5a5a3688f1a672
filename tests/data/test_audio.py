"""Sounds: four formats, what is refused, and which part is heard."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.audio import cut, decode_audio, middle
from xmodal.data.decode import decode
from xmodal.data.members import MemberError, SampleError
from xmodal.data.reader import RawSample


def chirp(seconds=0.5, rate=16_000, channels=1):
    t = np.arange(int(seconds * rate)) / rate
    waves = [0.5 * np.sin(2 * np.pi * (300 + 200 * channel + 600 * t) * t) for channel in range(channels)]
    return np.stack(waves, axis=1).astype(np.float32)


def encoded(samples, rate=16_000, format="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("format", "subtype", "error"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "FLOAT", 0),
        ("WAVEX", "PCM_24", 1e-6),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("MP3", None, 0.05),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_four_formats_come_as_mono_float32_at_their_own_rate(format, subtype, error, channels):
    samples = chirp(channels=channels, rate=22_050)
    found, rate = decode_audio(encoded(samples, 22_050, format, subtype))
    assert (found.dtype, found.ndim, rate) == (np.float32, 1, 22_050)
    expected = samples.mean(axis=1)
    assert len(found) == len(expected)
    assert np.abs(found - expected)[1000:-1000].max() <= error + 1e-7


def test_the_content_and_not_the_extension_says_the_format():
    sample = RawSample("k", "s.tar", {"wav": encoded(chirp(), format="FLAC")})
    assert decode(sample, fields=("audio",))["audio"][1] == 16_000


def test_audio_is_read_by_its_member():
    plain, other = encoded(chirp(0.1)), encoded(chirp(0.2))
    sample = RawSample("k", "s.tar", {"speech.flac": other, "wav": plain, "txt": b"hello"})
    assert len(decode(sample, fields=("audio",))["audio"][0]) == 1600
    assert "audio" not in decode(sample, fields=("text",))
    with pytest.raises(SampleError, match="has no sound, only txt"):
        decode(RawSample("k", "s.tar", {"txt": b"x"}), fields=("audio",))
    with pytest.raises(SampleError, match=r"2 sounds, a\.wav, b\.ogg"):
        decode(RawSample("k", "s.tar", {"a.wav": plain, "b.ogg": plain}), fields=("audio",))


def with_bad_sample(value):
    samples = chirp(0.1)
    samples[77] = value
    return encoded(samples, subtype="FLOAT")


def flac_of(frames):
    """A FLAC whose header promises so many frames."""
    data = bytearray(encoded(chirp(0.1), format="FLAC"))
    packed = int.from_bytes(data[18:26], "big")  # rate 20 bits, channels 3, bits 5, frames 36
    data[18:26] = ((packed >> 36 << 36) | frames).to_bytes(8, "big")
    return bytes(data)


WAV = encoded(chirp(0.2))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"#!AMR", "not one of WAV, FLAC, Ogg, MP3"),
        (encoded(chirp(0.1), format="AIFF"), "not one of"),
        (encoded(chirp(0.0)), r"empty \(0 frames\)"),
        (b"RIFF\x04\x00\x00\x00WAVE", "cannot be decoded"),
        (b"OggS" + bytes(200), "cannot be decoded"),
        (b"ID3" + bytes(2000), "cannot be decoded|empty"),
        (WAV[:-1000], "cut short by 99"),
        (encoded(chirp(1.0), format="FLAC")[:-3000], "cannot be decoded|ends after"),
        (with_bad_sample(np.nan), "not finite"),
        (with_bad_sample(np.inf), "not finite"),
        (flac_of(16_000 * 3601), "3601 s"),
        (flac_of(2**36 - 1), "are refused"),
        (encoded(chirp(0.1), rate=2_000_000), "rate of 2000000 Hz"),
    ],
)
def test_broken_empty_and_endless_sounds_are_member_errors(data, reason):
    with pytest.raises(MemberError, match=reason):
        decode_audio(data)


def test_a_sound_that_is_too_long_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(MemberError, match="refused"):
        decode_audio(flac_of(2**36 - 1))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_that_was_piped_does_not_know_its_size(size):
    piped = WAV[:4] + struct.pack("<I", size) + WAV[8:]
    assert len(decode_audio(piped)[0]) == 3200


@given(length=st.integers(1, 500), seconds=st.floats(0.01, 40), view=st.integers(0, 9))
def test_a_cut_is_a_part_of_its_length_drawn_by_seed_view_and_key(length, seconds, view):
    sound = np.arange(length, dtype=np.float32), 10
    part, rate = cut(sound, seconds, seed=0, view=view, key="k")
    again, _ = cut(sound, seconds, seed=0, view=view, key="k")
    assert rate == 10
    assert len(part) == min(length, max(1, round(10 * seconds)))
    assert (np.diff(part) == 1).all()
    assert (part == again).all()
    centre, _ = middle(sound, seconds)
    assert len(centre) == len(part)
    assert abs(centre[0] - (length - 1 - centre[-1])) <= 1  # as much is left out before as after


def test_cuts_come_from_everywhere():
    sound = np.arange(1000, dtype=np.float32), 10
    starts = [cut(sound, 10, seed=0, view=view, key=key)[0][0] for view in range(20) for key in "abcdefghij"]
    assert np.allclose(np.quantile(starts, [0.25, 0.5, 0.75]), [225, 450, 675], atol=90)
    assert min(starts) < 30
    assert max(starts) > 870
    assert len({cut(sound, 10, seed=seed, view=0, key="a")[0][0] for seed in range(9)}) > 5
