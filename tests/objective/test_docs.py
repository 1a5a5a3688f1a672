"""The terms that docs/objective.md shows have no mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xmodal.objective import check_terms
from xmodal.plain import read_yaml
from xmodal.recipe import Term

PAGE = (Path(__file__).parents[2] / "docs" / "objective.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_is_an_objective(block):
    entries = read_yaml(block)
    entries = entries["objective"] if isinstance(entries, dict) else entries
    teachers = sorted(set(re.findall(r"(\w+):\w+\.", block)) - {"student", "batch"}) or ["teacher"]
    _, mistakes = check_terms([Term(**entry) for entry in entries], teachers)
    assert [mistake for mistake in mistakes if mistake.path != "teacher"] == []  # an example may do without


def test_there_are_examples():
    assert len(BLOCKS) > 8
