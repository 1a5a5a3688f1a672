"""Texts, labels and JSON of a sample, by member or by a dotted path into one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xmodal.data.hashing import stable_hash
from xmodal.data.members import MemberError, listed


def decode_text(data: bytes) -> str:
    """UTF-8 text without outer white space. Raises :class:`MemberError` where it is empty or not UTF-8."""
    try:
        content = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise MemberError(f"text is not UTF-8 (byte {error.start})") from error
    if not content:
        raise MemberError("text is empty")
    return content


def decode_json(data: bytes) -> Any:
    """A JSON value. Raises :class:`MemberError` where it is none."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise MemberError(f"not JSON: {error}") from error


def decode_label(data: bytes) -> int:
    """The integer of a ``cls`` member. Raises :class:`MemberError` where it is none."""
    digits = data.strip()
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 18:
        raise MemberError(f"label is {digits[:40]!r}, not an integer")
    return int(digits)


def split_path(members: Mapping[str, bytes], text: str) -> tuple[str, list[str]] | None:
    """The member that ``text`` names, and the keys to follow inside it; None where the sample lacks the member."""
    pieces = text.split(".")
    for length in range(len(pieces), 0, -1):
        if (name := ".".join(pieces[:length])) in members:
            return name, pieces[length:]
    return None


def text_at(members: Mapping[str, bytes], text: str, *, key: str, view: int, seed: int, name: str = "") -> str:
    """The text that ``text`` names; of a list in JSON one entry, picked by hash of (seed, view, key, name if any).

    Raises :class:`MemberError` where there is none.
    """
    member, inner = _found(members, text, "text")
    if not inner:
        return decode_text(members[member])
    value = _inside(members[member], inner, text, "text")
    if isinstance(value, list) and value:
        value = value[stable_hash(seed, view, key, *([name] if name else [])) % len(value)]
    if not isinstance(value, str):
        raise MemberError(f"text {text!r} is {type(value).__name__}, not a string or a list of strings with an entry")
    if not value.strip():
        raise MemberError(f"text {text!r} is empty")
    return tidy(value, f"text {text!r}")


def tidy(value: str, what: str) -> str:
    """A string of JSON without outer white space. Raises :class:`MemberError` for half a surrogate pair in it."""
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise MemberError(f"{what} has half a surrogate pair, which no tokenizer reads")
    return value.strip()


def label_at(members: Mapping[str, bytes], label: str = "cls") -> int:
    """The integer that ``label`` names: a member such as ``cls``, or a path into JSON such as ``json.label``.

    Raises :class:`MemberError` where there is none.
    """
    name, inner = _found(members, label, "label")
    if not inner:
        return decode_label(members[name])
    value = _inside(members[name], inner, label, "label")
    if type(value) is not int or abs(value) >= 2**63:  # True is an int, too
        raise MemberError(f"label {label!r} is {str(value)[:40]!r}, not an integer")
    return value


def _found(members: Mapping[str, bytes], path: str, what: str) -> tuple[str, list[str]]:
    found = split_path(members, path)
    if found is None:
        where = "(member cls)" if path == "cls" else repr(path)
        raise MemberError(f"has no {what} {where}, only {listed(members)}")
    return found


def _inside(data: bytes, pieces: Sequence[str], path: str, what: str) -> Any:
    value, missing = follow(decode_json(data), pieces)
    if missing is not None:
        has = f"; it has {listed(value)}" if isinstance(value, dict) else ""
        raise MemberError(f"{what} {path!r}: there is no {missing!r}{has}")
    return value


def follow(value: Any, pieces: Sequence[str]) -> tuple[Any, str | None]:
    """What a path leads to in a JSON value, and None; or as far as it leads, and the key or number missing there."""
    for piece in pieces:
        if isinstance(value, dict) and piece in value:
            value = value[piece]
        elif isinstance(value, list) and piece.isdecimal() and int(piece) < len(value):
            value = value[int(piece)]
        else:
            return value, piece
    return value, None
