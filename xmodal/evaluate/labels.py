"""What a sample is labelled with: an integer, or a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

from xmodal.data.members import MemberError
from xmodal.data.texts import decode_json, decode_text, follow, split_path

Label = Union[int, str]  # noqa: UP007  evaluated at run time


def label_of(members: Mapping[str, bytes], path: str) -> Label | None:
    """The integer or the name at ``path``, a member or a dotted path into a JSON one; None where the sample lacks it.

    Raises :class:`MemberError` where it is something else.

    >>> label_of({"cls": b"7"}, "cls"), label_of({"json": b'{"group": "animals"}'}, "json.group")
    (7, 'animals')
    """
    found = split_path(members, path)
    if found is None:
        return None
    name, inner = found
    value = decode_json(members[name]) if inner else decode_text(members[name])
    value, missing = follow(value, inner)
    if missing is not None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise MemberError(f"label {path!r} is {str(value)[:40]!r}, neither an integer nor a name")
    if isinstance(value, int):
        return value
    value = value.strip()
    return int(value) if value.removeprefix("-").isdecimal() and len(value) < 19 else value or None
