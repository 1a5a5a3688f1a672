"""From an encoded sound to mono samples by libsndfile, and the part of it that a model gets to hear."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmodal.data.hashing import stable_hash
from xmodal.data.members import MemberError, the_member
from xmodal.errors import DataError

AUDIO_EXTENSIONS = ("wav", "flac", "ogg", "mp3")
MAX_SECONDS = 3600
"""Longer sounds are refused before they are decoded."""
MAX_VALUES = 2**28
"""Sounds of more frames × channels (1 GiB) are refused before they are decoded."""

Sound = tuple[NDArray[np.float32], int]
"""Mono samples ``[frames]``, from −1 to 1, and their rate in Hz."""

_RATES = range(100, 768_001)
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # written into a WAV that was piped


def audio_member(members: Mapping[str, Any]) -> str:
    """The extension that holds the sound: a plain one (``wav``) or, failing that, one that ends so (``speech.wav``).

    Raises :class:`MemberError` where there is none or more than one.
    """
    return the_member(members, AUDIO_EXTENSIONS, "sound")


def decode_audio(data: bytes) -> Sound:
    """An encoded sound (WAV, FLAC, Ogg, MP3) at its own rate; of several channels the mean.

    Raises :class:`MemberError` where it is broken, empty, too long or holds a sample that is not finite.
    """
    with opened_audio(data) as file:
        samples = file.read(dtype="float32", always_2d=True)
        if len(samples) < file.frames:
            raise MemberError(f"sound ends after {len(samples)} of {file.frames} frames")
        rate = int(file.samplerate)
    with np.errstate(invalid="ignore", over="ignore"):
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not len(mono):
        raise MemberError("sound is empty (0 frames)")
    if not np.isfinite(mono).all():
        raise MemberError("sound holds a sample that is not finite")
    return np.ascontiguousarray(mono), rate


@contextmanager
def opened_audio(data: bytes) -> Iterator[Any]:
    """A sound of which only the header was read, a ``soundfile.SoundFile``; errors inside become MemberError."""
    if not data:
        raise MemberError("sound is empty (0 bytes)")
    kind = _kind(data)
    if kind is None:
        raise MemberError(f"sound is not one of WAV, FLAC, Ogg, MP3 ({len(data)} bytes)")
    missing = _missing_bytes(data) if kind == "WAV" else 0
    if missing:
        raise MemberError(f"sound is cut short by {missing} bytes")
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            seconds = file.frames / max(file.samplerate, 1)
            if seconds > MAX_SECONDS or file.frames * file.channels > MAX_VALUES:
                raise MemberError(
                    f"sound of {seconds:.0f} s, {file.frames} frames × {file.channels} channels; more than "
                    f"{MAX_SECONDS} s or {MAX_VALUES} values are refused"
                )
            if file.samplerate not in _RATES:
                raise MemberError(f"sound has a rate of {file.samplerate} Hz, beyond {_RATES.start} to {_RATES[-1]}")
            yield file
    except MemberError:
        raise
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OSError) as error:
        raise MemberError(f"sound cannot be decoded: {error}") from error


def cut(sound: Sound, seconds: float, *, seed: int, view: int, key: str) -> Sound:
    """A part of at most ``seconds``, its place drawn from (seed, view, key). A shorter sound stays as it is."""
    samples, rate = sound
    length = _frames(seconds, rate)
    if len(samples) <= length:
        return sound
    start = int(Random(stable_hash("sound", seed, view, key)).random() * (len(samples) - length + 1))
    return samples[start : start + length], rate


def middle(sound: Sound, seconds: float) -> Sound:
    """At most ``seconds`` from the middle, as evaluation hears it."""
    samples, rate = sound
    length = _frames(seconds, rate)
    start = max(0, (len(samples) - length) // 2)
    return samples[start : start + length], rate


def _frames(seconds: float, rate: int) -> int:
    return max(1, round(seconds * rate))


def _kind(data: bytes) -> str | None:
    """The content and not the extension says the format; libsndfile would also open a score of rarer ones."""
    head = data[:12]
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        return "WAV"
    if head[:4] in (b"fLaC", b"OggS"):
        return "FLAC" if head[:1] == b"f" else "OGG"
    is_mp3 = head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
    return "MP3" if is_mp3 else None


def _missing_bytes(data: bytes) -> int:
    """How much shorter a WAV is than its header says; libsndfile would read the rest without a word."""
    size = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big")
    return 0 if size in _UNKNOWN_SIZES else max(0, size + 8 - len(data) - 1)  # a last padding byte is often left out


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise DataError("Sounds need a package that is not installed. Run: pip install soundfile") from error
    return soundfile
