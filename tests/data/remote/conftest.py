"""Small shards of real pictures on a server, and a cache of each test's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmodal.data import index_shards, open_shards
from xmodal.data.remote import settings
from xmodal.transfer.patience import Patience

QUICK = Patience(attempts=4, timeout=0.5, pause=0.001)
SHARDS, SAMPLES = 5, 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own, no limit, and little patience."""
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XMODAL_CACHE_LIMIT", raising=False)
    monkeypatch.delenv("XMODAL_OFFLINE", raising=False)
    monkeypatch.setattr(settings, "PATIENCE", QUICK)
    return tmp_path / "cache" / "shards"


@pytest.fixture
def folder(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """Five shards of 24 emoji each, with indexes and a manifest."""
    folder = tmp_path / "shards"
    folder.mkdir()
    emoji = open_shards("package://emoji/names-*.tar")
    for shard in range(SHARDS):
        raws = [emoji.read(shard * SAMPLES + row) for row in range(SAMPLES)]
        members = [(f"{raw.key}.{name}", data) for raw in raws for name, data in raw.members.items()]
        write_tar(folder / f"train-{shard:03d}.tar", members)
    index_shards(folder)
    return folder


@pytest.fixture
def server(folder: Path, serve: Callable[..., Any]) -> Any:
    return serve(folder)


@pytest.fixture
def everything() -> Callable[..., list[Any]]:
    """Every sample of a set, as bytes."""

    def read(shards: Any) -> list[Any]:
        return [shards.read(sample) for sample in range(shards.num_samples)]

    return read


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for something to become true."""

    def wait(true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture
def cached(cache: Path) -> Callable[[], list[str]]:
    """Names of the shards that are whole in the cache."""
    return lambda: sorted(path.name for path in cache.glob("*/*.tar"))
