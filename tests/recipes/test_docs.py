"""docs/recipes.md says of every key what the schema says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from xmodal.recipe import Recipe, Source, Spec
from xmodal.recipes.complaints import describe, fields_of

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, info in fields_of(model).items():
        yield prefix + name, info
        inner = [info.annotation, *get_args(info.annotation)]
        for section in inner:
            if isinstance(section, type) and issubclass(section, BaseModel) and section is not Spec:
                yield from keys_of(section, f"{prefix}{name}.{'N.' if get_origin(info.annotation) is list else ''}")


FIELDS = {**dict(keys_of(Recipe)), **dict(keys_of(Source, "data.train.NAME."))}


def row(name: str, info: FieldInfo) -> str:
    """The line of the page's tables about one key."""
    default = info.default
    if info.is_required():
        shown = "required"
    elif default is None or isinstance(default, BaseModel) or default == "":
        shown = ""
    elif isinstance(default, tuple):
        shown = f"`[{', '.join(f'{value:g}' for value in default)}]`"
    elif isinstance(default, bool):
        shown = f"`{str(default).lower()}`"
    else:
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{str(default).replace(chr(39), '')}`"
    expected = describe(info.annotation, info).replace("|", "\\|")
    return f"| `{name}` | {expected} | {shown} | {info.description} |"


@pytest.mark.parametrize("name", FIELDS)
def test_every_key_stands_in_its_table(name):
    assert row(name, FIELDS[name]) in PAGE.splitlines()


if __name__ == "__main__":  # what to paste into the page
    for key, field in FIELDS.items():
        print(row(key, field))
