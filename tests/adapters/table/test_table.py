"""docs/adapters-table.md: every adapter, and what it was seen to do. A cell that is not so fails here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import xmodal.adapters.students
import xmodal.adapters.teachers  # noqa: F401
from tests.adapters.table.cases import CASES, Student, Teacher
from tests.adapters.table.page import COLUMNS, PAGE, REASONS, WRITE, label, line, lines_of, write
from tests.adapters.table.workshop import STEPS, Workshop
from xmodal.adapters import STUDENTS, TEACHERS
from xmodal.adapters.transformers.families import FAMILIES

committed = pytest.mark.skipif(bool(os.environ.get(WRITE)), reason="the page is being written")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.role}: {case.name} {case.model}".replace("`", ""))
def test_a_row_is_what_its_checks_find(case: Teacher | Student, workshop: Workshop, rows: dict[str, str]) -> None:
    cells = case.check(workshop)
    assert cells.keys() == COLUMNS.keys()
    found = rows[label(case)] = line(case, cells)
    if not os.environ.get(WRITE):
        hint = f"The page is written anew by {WRITE}=1 and these tests, if this is as it should be."
        assert lines_of(PAGE.read_text(encoding="utf-8")).get(label(case)) == found, hint


@committed
def test_the_page_has_these_rows_in_this_order_and_no_other_words() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == write(lines_of(text), STEPS)


def test_every_adapter_has_a_row() -> None:
    assert {case.adapter for case in CASES if case.role == "teacher"} - {""} == set(TEACHERS)
    assert {case.adapter for case in CASES if case.role == "student"} - {""} == set(STUDENTS)
    assert len({label(case) for case in CASES}) == len(CASES)


def test_every_architecture_of_transformers_has_a_row(workshop: Workshop) -> None:
    cases = [case for case in CASES if isinstance(case, Teacher) and case.adapter == "transformers"]
    folders = [Path(case.options(workshop)["model"]) for case in cases if not case.trained]
    seen = {json.loads((folder / "config.json").read_text())["model_type"] for folder in folders}
    assert set(FAMILIES) - seen == {"camembert", "siglip_vision_model"}  # the page says why


def test_every_reason_is_given_somewhere() -> None:
    given = {reason for case in CASES if isinstance(case, Teacher) for reason in case.reasons.values()}
    assert given | {"teacher"} == set(REASONS)
