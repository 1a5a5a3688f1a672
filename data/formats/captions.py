"""All the captions of a sample: a line each of a text, or the entries of a list in a JSON member."""

from __future__ import annotations

from collections.abc import Mapping

from xmodal.data.members import MemberError
from xmodal.data.texts import decode_json, decode_text, follow, split_path, tidy


def captions_of(members: Mapping[str, bytes], text: str) -> tuple[str, ...]:
    """Every caption at ``text``, a member or a dotted path into a JSON one; none where the sample lacks it.

    Lines and entries without words are left out. Raises :class:`MemberError` where the member is broken.

    >>> captions_of({"txt": b"a cat\\na sad cat\\n"}, "txt")
    ('a cat', 'a sad cat')
    >>> captions_of({"json": b'{"captions": ["a cat", "a pet"]}'}, "json.captions")
    ('a cat', 'a pet')
    """
    found = split_path(members, text)
    if found is None:
        return ()
    name, inner = found
    if not inner:
        given = decode_text(members[name]).splitlines() if members[name].strip() else []
    else:
        value, missing = follow(decode_json(members[name]), inner)
        if missing is not None:
            return ()
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(entry, str) for entry in given):
            raise MemberError(f"text {text!r} is neither a string nor a list of strings")
    return tuple(tidy(line, f"text {text!r}") for line in given if line.strip())
