"""Plain values (what YAML can hold) and the YAML that recipes are written in: YAML 1.2's core types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
_MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: PyYAML's own 1.1 reads ``2e-3`` as text, ``012`` as 10 and ``no`` as false."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else; writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def write_text(self, text: str) -> yaml.ScalarNode:
        # PyYAML folds a line break of Unicode that stands between single quotes into a blank
        style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.write_text)

for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        first = [*_first, ""] if _tag == "null" else list(_first)
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), first)


def _read_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _read_int)


def read_yaml(text: str) -> Any:
    """The value that a YAML text holds.

    Raises ValueError that says the line and what is wrong there: text that is not YAML, or a key given twice.

    >>> read_yaml("{learning_rate: 2e-3, sizes: [1, 0x10], on: no}")
    {'learning_rate': 0.002, 'sizes': [1, 16], 'on': 'no'}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" ({error.context})" if error.context else ""
        raise ValueError(f"{where}{error.problem}{context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def write_yaml(value: Any) -> str:
    """YAML that :func:`read_yaml` reads back as the same plain value; keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def plain(value: Any, keep: tuple[type, ...] = ()) -> Any:
    """``value`` made of dicts, lists, texts, numbers, booleans and None only, as it would come back from YAML.

    Instances of ``keep`` stay as they are. Raises ValueError for anything that has no such form: a recipe must fit into
    a file.

    >>> from pathlib import Path
    >>> plain({"folder": Path("weights"), "sizes": (1, 2)})
    {'folder': 'weights', 'sizes': [1, 2]}
    """
    return _plain(value, keep, 0)


def _plain(value: Any, keep: tuple[type, ...], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"is nested more than {_MAX_DEPTH} deep")
    if value is None or type(value) in (str, bool, int, float) or isinstance(value, keep):
        return value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"has the key {wrong[0]!r}, which is not a text; quote it")
        return {str(key): _plain(entry, keep, depth + 1) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(entry, keep, depth + 1) for entry in value]
    if isinstance(value, (str, PurePath)):
        return str(value)
    for number in (bool, int, float):  # subclasses, NumPy's float64 among them
        if isinstance(value, number):
            return number(value)
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise ValueError(f"is of type {name}; a recipe holds texts, numbers, true, false, null, lists and mappings")
