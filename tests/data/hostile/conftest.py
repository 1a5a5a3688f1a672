"""Two sound shards of real pictures, the ways to spoil them, and models that read all that is left."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import wave
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.data.shards import open_shards

PER_SHARD = 16


class Shards:
    """A folder of two tars, ``part-0.tar`` with the keys a00 … a15 and ``part-1.tar`` with b00 … b15."""

    def __init__(self, folder: Path, samples: list[dict[str, bytes]]) -> None:
        self.folder, self.marker = folder, folder.parent / "it-was-unpickled"
        self.names = [f"{letter}{number:02d}" for letter in "ab" for number in range(PER_SHARD)]
        rows = [
            (f"{key}.{extension}", data)
            for key, members in zip(self.names, samples, strict=True)
            for extension, data in members.items()
        ]
        per_shard = len(rows) // 2
        for shard in range(2):
            write(self.path(shard), rows[shard * per_shard : (shard + 1) * per_shard])

    def path(self, shard: int = 0) -> Path:
        return self.folder / f"part-{shard}.tar"

    def change(self, name: str, *new: tuple[str, bytes] | tarfile.TarInfo, shard: int = 0) -> None:
        """Put ``new`` members where the member ``name`` stands."""
        rows: list[Any] = [row for old in read(self.path(shard)) for row in (new if old[0] == name else [old])]
        write(self.path(shard), rows)

    def data(self, name: str, shard: int = 0) -> bytes:
        return dict(read(self.path(shard)))[name]

    def edit(self, edit: Callable[[bytes], bytes], shard: int = 0) -> None:
        """Change the bytes of a tar file."""
        self.path(shard).write_bytes(edit(self.path(shard).read_bytes()))

    def rename(self, old: str, new: str, shard: int) -> None:
        """Give every member that begins with ``old`` a name that begins with ``new``."""
        write(self.path(shard), [(name.replace(old, new, 1), data) for name, data in read(self.path(shard))])

    @property
    def bomb(self) -> Bomb:
        return Bomb(str(self.marker))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def read(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def write(path: Path, rows: list[Any]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for row in rows:
            if isinstance(row, tarfile.TarInfo):
                tar.addfile(row)
            else:
                info = tarfile.TarInfo(row[0])
                info.size = len(row[1])
                tar.addfile(info, io.BytesIO(row[1]))


class Pixels:
    """Sees the picture."""

    fields: tuple[str, ...] = ("image",)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {"pixels": torch.from_numpy(np.array(sample["image"].convert("RGB").resize((6, 6))))}

    def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class Lengths(Pixels):
    """Sees how long a text is, and does what a tokenizer does: turn it into UTF-8."""

    fields = ("text",)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor(len(sample["text"].encode()))}


class Loudness(Pixels):
    """Hears the sound."""

    fields = ("audio",)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        samples, _ = sample["audio"]
        return {"loudness": torch.from_numpy(samples).square().mean()}


MODELS = {"picture": Pixels, "text": Lengths, "sound": Loudness}


def wav(values: Any = (0.1, -0.1) * 50) -> bytes:
    """A WAV of 16-bit integers or, for what they cannot hold, of floats."""
    array = np.asarray(values, dtype=np.float32)
    if np.isfinite(array).all():
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((array * 32767).astype("<i2").tobytes())
        return buffer.getvalue()
    data = array.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def png(width: int, height: int, rows: int, extra: bytes = b"") -> bytes:
    """A PNG of one bit a pixel which says it is so large, with the data of so many rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = zlib.compress(bytes((width + 7) // 8 + 1) * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@cache
def encoded(size: tuple[int, int], format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, 128).save(buffer, format)
    return buffer.getvalue()


def npz(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=array)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zip_bomb(num_bytes: int) -> bytes:
    """A ``.npz`` whose array, it says, has so many bytes."""
    data = bytearray(npz(np.zeros(1 << 20, dtype=np.uint8)))
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, num_bytes)
    return bytes(data)


class Tools:
    """What a case needs to make its hostile bytes."""

    wav, png, encoded, npz, npy, zip_bomb, chunk = map(staticmethod, (wav, png, encoded, npz, npy, zip_bomb, chunk))


@pytest.fixture(scope="session")
def samples() -> list[dict[str, bytes]]:
    """Real pictures and names, with a label, a caption in JSON, a sound and features."""
    source = open_shards("package://emoji/style-*.tar")
    found = []
    for number in range(2 * PER_SHARD):
        raw = source.read(number * 11)
        caption = b'{"caption": "' + raw.members["txt"].strip() + b'"}'
        more = {
            "cls": b"%d" % number,
            "json": caption,
            "wav": wav(),
            "npy": npy(np.float32([1])),
            "npz": npz(np.ones(3)),
        }
        found.append({**{name: data for name, data in raw.members.items() if name != "json"}, **more})
    return found


@pytest.fixture(scope="session")
def sound_shards(samples: list[dict[str, bytes]]) -> Callable[[Path], Shards]:
    """Makes them in a folder below the one given."""

    def make(parent: Path) -> Shards:
        folder = parent / "shards"
        folder.mkdir(parents=True)
        return Shards(folder, samples)

    return make


@pytest.fixture
def shards(tmp_path: Path, sound_shards: Callable[[Path], Shards]) -> Shards:
    return sound_shards(tmp_path)


@pytest.fixture(scope="session")
def models() -> dict[str, Any]:
    """A preprocessing for each of a sample's parts."""
    return {name: model() for name, model in MODELS.items()}


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
