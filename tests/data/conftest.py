"""Tar files and pictures made on the spot, by the standard library and Pillow alone."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

Member = tuple[str, bytes] | tarfile.TarInfo


@pytest.fixture(scope="session")
def write_tar() -> Callable[..., Path]:
    """``write_tar(path, [(name, bytes) or TarInfo, …], format=…)`` writes a tar file with tarfile."""

    def write(path: Path, members: Sequence[Member], format: int = tarfile.GNU_FORMAT) -> Path:
        with tarfile.open(path, "w", format=format) as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                else:
                    info = tarfile.TarInfo(member[0])
                    info.size = len(member[1])
                    tar.addfile(info, io.BytesIO(member[1]))
        return path

    return write


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """``picture(color, size, format)`` is an encoded picture of one colour."""

    def encode(color: object = (200, 30, 60), size: tuple[int, int] = (8, 6), format: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, color).save(buffer, format)  # type: ignore[arg-type]
        return buffer.getvalue()

    return encode


@pytest.fixture
def pair_folder(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder of seven pictures with a text each."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number in range(7):
        (folder / f"item{number}.png").write_bytes(picture((number * 30, 0, 0)))
        (folder / f"item{number}.txt").write_text(f"text {number}")
    return folder
