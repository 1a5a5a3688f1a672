"""Runs command lines in this process, and a few pictures to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from xmodal.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def xmodal(capsys) -> Callable[..., Outcome]:
    """``xmodal("zoo", "list")`` → exit code and what was printed."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of eight pictures with their names beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, color in enumerate(["red", "green", "blue", "black", "white", "gray", "orange", "purple"]):
        Image.new("RGB", (16, 16), color).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"a {color} square")
    return folder


@pytest.fixture(scope="session")
def shards(pictures, tmp_path_factory) -> Path:
    """The same, packed."""
    folder = tmp_path_factory.mktemp("shards") / "packed"
    assert main(["data", "pack", str(pictures), "--out", str(folder), "--shard-size", "5", "--keep-order"]) == 0
    return folder
