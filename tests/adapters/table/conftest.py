"""The workshop of all cases, and the rows that go into the page where it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The small models of these libraries are built where their own tests are.
from tests.adapters.open_clip_teacher.conftest import saved
from tests.adapters.table.page import PAGE, WRITE, lines_of, write
from tests.adapters.table.workshop import STEPS, Workshop
from tests.adapters.transformers_teacher.conftest import model_folder
from tests.data.formats.conftest import reinforced_shards

__all__ = ["model_folder", "reinforced_shards", "saved"]


@pytest.fixture(scope="session")
def workshop(
    model_folder: Callable[[str], Path],
    saved: Callable[[str], Path],
    tiny_bert: Path,
    minilm_folder: Path,
    reinforced_shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Workshop:
    root = tmp_path_factory.mktemp("table")
    return Workshop(model_folder, saved, tiny_bert, minilm_folder, reinforced_shards, root)


@pytest.fixture(scope="session")
def rows() -> Iterator[dict[str, str]]:
    """Label → row as a run finds it; the page is written from them where that is asked for."""
    if os.environ.get(WRITE) and "PYTEST_XDIST_WORKER" in os.environ:
        raise pytest.UsageError(f"{WRITE}: a page is written by one process. Leave -n out.")
    found: dict[str, str] = {}
    yield found
    if os.environ.get(WRITE):
        known = lines_of(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
        PAGE.write_text(write({**known, **found}, STEPS), encoding="utf-8")
