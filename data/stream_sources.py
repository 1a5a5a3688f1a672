"""The sources of a training stream: shards, what each of their samples holds, and how much of the stream they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from xmodal.data.audio import AUDIO_EXTENSIONS
from xmodal.data.decode import IMAGE_EXTENSIONS, split_path
from xmodal.data.members import MemberError
from xmodal.data.shards import ShardSet, open_shards
from xmodal.data.texts import decode_json, follow
from xmodal.data.uri import Shards
from xmodal.errors import DataError, hint
from xmodal.recipe import Source


@dataclass(frozen=True)
class StreamSource:
    """Open shards that take part in a stream. ``fields`` are what every one of their samples has."""

    name: str
    shards: ShardSet
    weight: float
    text: str
    fields: frozenset[str]


def count_samples(sources: Iterable[StreamSource]) -> int:
    """Samples of one epoch of every source, over all ranks, broken ones included."""
    return sum(source.shards.num_samples for source in sources)


Train = Shards | ShardSet | Mapping[str, Any] | tuple[StreamSource, ...]
"""Shards of one kind; sources by name: shards, or a :class:`~xmodal.recipe.Source` or its keys; or opened sources."""


def open_sources(
    train: Train, text: str = "txt", *, label: str = "cls", stored: Mapping[str, str] | None = None
) -> tuple[StreamSource, ...]:
    """The sources that ``data.train`` names, opened, by name: their order does not matter.

    One alone has every field that is asked of it. Of several, each has the fields that it is said to have, or else
    those of its first sample, among them what is ``stored`` under names (of ``data.features`` and ``data.texts``).
    Raises :class:`DataError` where shards cannot be opened, or a source's first sample has nothing to learn from.
    """
    if isinstance(train, tuple) and all(isinstance(source, StreamSource) for source in train):
        return tuple(sorted(train, key=lambda source: source.name))
    if not isinstance(train, Mapping):
        return (StreamSource("train", open_shards(cast("Shards | ShardSet", train)), 1.0, text, frozenset()),)
    if not train:
        raise DataError("data.train names no source. Give shards, or sources by name.")
    named = {"label": label, **(stored or {})}
    return tuple(_open(name, train[name], text, named) for name in sorted(train))


def _open(name: str, given: Any, text: str, stored: Mapping[str, str]) -> StreamSource:
    if isinstance(given, ShardSet):
        shards, settings = given, Source(shards="")
    else:
        settings = given if isinstance(given, Source) else _settings(given)
        shards = open_shards(settings.shards)
    own_text = settings.text or text
    known = ("image", "audio", "text", *stored)
    for field in settings.fields or ():
        if field not in known:
            raise DataError(f"data.train.{name}.fields: {field!r} is no field. {hint(field, known)}")
    fields = frozenset(settings.fields) if settings.fields else _fields(name, shards, own_text, stored)
    weight = float(shards.num_samples) if settings.weight is None else settings.weight
    return StreamSource(name, shards, weight, own_text, fields)


def _settings(given: Any) -> Source:
    return Source(**given) if isinstance(given, Mapping) else Source(shards=given)


def _has(members: Mapping[str, bytes], place: str) -> bool:
    """Whether a sample has a member, or what a path into its JSON leads to."""
    found = split_path(members, place)
    if found is None or not found[1]:
        return found is not None
    try:
        return follow(decode_json(members[found[0]]), found[1])[1] is None
    except MemberError:
        return False


def _fields(name: str, shards: ShardSet, text: str, stored: Mapping[str, str]) -> frozenset[str]:
    """What the first sample has: the others of a source are expected to have as much."""
    members = shards.read(0).members
    ends = {extension.rpartition(".")[2] for extension in members}
    found = {
        "image": bool(ends & set(IMAGE_EXTENSIONS)),
        "audio": bool(ends & set(AUDIO_EXTENSIONS)),
        "text": _has(members, text),
        **{field: _has(members, place.partition(":")[0]) for field, place in stored.items()},
    }
    fields = frozenset(field for field, there in found.items() if there)
    if not fields - set(stored):
        raise DataError(
            f"Source {name!r}: its first sample, {shards.key(0)!r}, has no picture, sound or text {text!r}, only "
            f"{', '.join(members)}. Give data.train.{name}.text, or what its samples have: data.train.{name}.fields."
        )
    return fields
