"""What can be wrong with a sample, and how its members are named in messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from xmodal.errors import DataError


class SampleError(DataError):
    """One sample that cannot be decoded: ``key``, ``shard`` and ``reason``."""

    def __init__(self, key: str, shard: str, reason: str) -> None:
        self.key, self.shard, self.reason = key, shard, reason
        super().__init__(f"Sample {key!r} of {shard}: {reason}")

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str, str]]:  # a worker sends it by pickle
        return SampleError, (self.key, self.shard, self.reason)


class MemberError(DataError):
    """Why a member's bytes cannot be decoded; becomes a SampleError where the sample's name is known."""


def the_member(members: Collection[str], extensions: Collection[str], what: str) -> str:
    """The extension that holds the ``what``: a plain one (``png``) or, failing that, one that ends so (``photo.png``).

    Raises :class:`MemberError` where there is none or more than one.
    """
    plain = [name for name in members if name in extensions]
    found = plain or [name for name in members if name.rpartition(".")[2] in extensions]
    if not found:
        raise MemberError(f"has no {what}, only {listed(members)}")
    if len(found) > 1:
        raise MemberError(f"has {len(found)} {what}s, {', '.join(found)}; give it one (a key ends at the first dot)")
    return found[0]


def listed(names: Iterable[str]) -> str:
    """At most eight of some names, for a message.

    >>> listed("abcdefghij"), listed("ab"), listed([])
    ('a, b, c, d, e, f, g, h, … (10 in all)', 'a, b', 'nothing')
    """
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "nothing"
