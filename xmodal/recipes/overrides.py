"""Changes to a recipe: ``key=value`` on a command line, a mapping in Python, a stage in a file. One set of rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from xmodal.errors import Mistake
from xmodal.plain import plain, read_yaml

_SECTIONS = {(), ("data",), ("data", "augment"), ("train",), ("evaluate",)}
_EITHER_OR = [(("train",), "epochs", "max_steps"), ((), "teacher", "teachers")]
_NAMES = ("name", "loss")  # the key that says which options may stand beside it


def apply_overrides(
    base: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[dict[str, Any], list[Mistake]]:
    """A copy of ``base`` with the changes made, and what was wrong with those that could not be.

    Keys are dotted; a number picks an entry of a list, and the first number past its end adds one. A section (``data``,
    ``data.augment``, ``train``, ``evaluate``) is merged key by key, and so is a mapping of options that does not say
    its ``name`` or ``loss``. Everything else replaces what stood there. Of two keys that exclude one another
    (``train.epochs`` and ``train.max_steps``, ``teacher`` and ``teachers``) the new one takes the old one's place.

    >>> apply_overrides({"train": {"epochs": 8, "seed": 0}}, ["train.max_steps=5"])
    ({'train': {'seed': 0, 'max_steps': 5}}, [])
    """
    changed: dict[str, Any] = copy.deepcopy(dict(base))
    mistakes: list[Mistake] = []
    written: set[tuple[str, ...]] = set()
    for path, value in _pairs(overrides, mistakes):
        problem = _write(changed, (), path, value, written)
        if problem is not None:
            mistakes.append(problem)
    for parent, one, other in _EITHER_OR:
        for new, old in ((one, other), (other, one)):
            section = changed if not parent else changed.get(parent[0])
            if (
                isinstance(section, dict)
                and section.get(new) is not None
                and (*parent, new) in written
                and (*parent, old) not in written
            ):
                section.pop(old, None)
    return changed, mistakes


def _pairs(overrides: Sequence[str] | Mapping[str, Any], mistakes: list[Mistake]) -> list[tuple[tuple[str, ...], Any]]:
    pairs = []
    entries = overrides.items() if isinstance(overrides, Mapping) else [_split(text, mistakes) for text in overrides]
    for key, value in entries:
        if key is None:
            continue
        path = tuple(str(key).split("."))
        if not all(path):
            mistakes.append(Mistake(str(key), "is not a dotted key, such as train.batch_size"))
            continue
        try:
            pairs.append((path, plain(value)))
        except ValueError as error:
            mistakes.append(Mistake(str(key), str(error)))
    return pairs


def _split(text: str, mistakes: list[Mistake]) -> tuple[str | None, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        mistakes.append(Mistake(text, "is not an override; write key=value, such as train.batch_size=64"))
        return None, None
    if value[:1] in ("*", "&", "!", "%", "@", "`", "|", ">"):  # YAML's own signs, of no use here: *.tar is a glob
        return key, value
    try:
        return key, read_yaml(value)
    except ValueError as error:
        quoted = value.replace("'", "''")
        mistakes.append(
            Mistake(key, f"{value!r} is not YAML: {error}. If it is a text, quote it: {key}=\"'{quoted}'\"")
        )
        return None, None


def _write(
    node: Any, done: tuple[str, ...], path: tuple[str, ...], value: Any, written: set[tuple[str, ...]]
) -> Mistake | None:
    """Set ``path`` below ``node``, which is the mapping or list at ``done``."""
    here, rest = (*done, path[0]), path[1:]
    place: Any = path[0]
    if isinstance(node, list):
        if not path[0].isdigit() or int(path[0]) > len(node):
            entries = f"entries 0 to {len(node) - 1}" if node else "no entries"
            return Mistake(".".join(here), f"{'.'.join(done)} has {entries}; {len(node)} would add one")
        place = int(path[0])
        if place == len(node):
            node.append(None)
    elif place not in node:
        node[place] = None
    if not rest:
        written.add(here)
        return _assign(node, place, here, value, written)
    below = node[place]
    if below is None:
        below = node[place] = {}
    elif isinstance(below, str) and path[0] in ("scheme", "projection"):
        below = node[place] = {"name": below}  # the short form of a name without options
    elif not isinstance(below, (dict, list)):
        return Mistake(".".join((*done, *path)), f"{'.'.join(here)} is {below!r}, which has no keys of its own")
    return _write(below, here, rest, value, written)


def _assign(node: Any, place: Any, here: tuple[str, ...], value: Any, written: set[tuple[str, ...]]) -> Mistake | None:
    old = node[place]
    if isinstance(value, dict) and (here in _SECTIONS or (isinstance(old, dict) and _holds_options(old, value))):
        if not isinstance(old, dict):
            old = node[place] = {}
        for key, entry in value.items():
            problem = _write(old, here, (key,), entry, written)
            if problem is not None:
                return problem
    else:
        node[place] = value
    return None


def _holds_options(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return any(name in old for name in _NAMES) and not any(name in new for name in _NAMES)
