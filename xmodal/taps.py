"""Taps: dotted names for what a model can return, such as ``image.embedding`` or ``text.hidden.3``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from xmodal.errors import AdapterError, nearest

_LAYERED = re.compile(r"^(?P<stem>.+)\.(?P<layer>-?\d+)$")


def layer_of(tap: str) -> tuple[str, int | None]:
    """Split a tap into its stem and its layer, None where it has none.

    >>> layer_of("text.hidden.-1"), layer_of("image.embedding")
    (('text.hidden', -1), ('image.embedding', None))
    """
    match = _LAYERED.match(tap)
    return (match["stem"], int(match["layer"])) if match else (tap, None)


def resolve_tap(tap: str, available: Sequence[str], owner: str) -> str:
    """The tap that ``tap`` names among those ``available``; a negative layer counts from the end.

    Raises :class:`AdapterError` that lists the taps of ``owner`` where there is no such tap.

    >>> resolve_tap("text.hidden.-1", ["text.hidden.0", "text.hidden.1"], "teacher")
    'text.hidden.1'
    """
    stem, layer = layer_of(tap)
    if layer is not None and layer < 0 and tap not in available:  # a cache keeps the names that were asked for
        layers = [found for name in available if (found := layer_of(name))[0] == stem and found[1] is not None]
        if -layer <= len(layers):
            tap = f"{stem}.{len(layers) + layer}"
    if tap in available:
        return tap
    close = nearest(tap, available)
    missing = f"{tap!r} is not a tap of {owner}, which has {summarize_taps(available)}."
    raise AdapterError(missing + (f" Nearest: {', '.join(close)}" if close else ""))


def renamed(tap: str, old: str, new: str) -> str:
    """The same tap of another modality or text.

    >>> renamed("text.hidden.3", "text", "english")
    'english.hidden.3'
    """
    head, dot, rest = tap.partition(".")
    return f"{new}{dot}{rest}" if head == old else tap


def summarize_taps(taps: Iterable[str]) -> str:
    """Taps in one line, layers folded.

    >>> summarize_taps(["text.embedding", "text.hidden.0", "text.hidden.1", "text.hidden.2"])
    'text.embedding, text.hidden.0 … text.hidden.2'
    """
    stems: dict[str, list[int]] = {}
    for tap in taps:
        stem, layer = layer_of(tap)
        stems.setdefault(stem, []).extend([] if layer is None else [layer])
    parts = []
    for stem, layers in stems.items():
        first, last = (min(layers), max(layers)) if layers else (None, None)
        if first is None:
            parts.append(stem)
        else:
            parts.append(f"{stem}.{first}" if first == last else f"{stem}.{first} … {stem}.{last}")
    return ", ".join(parts)
