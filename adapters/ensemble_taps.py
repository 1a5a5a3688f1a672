"""How the taps of several models in one are called."""

from __future__ import annotations

from collections.abc import Sequence

Place = tuple[int, str]
"""A member's number, and the tap there."""


def member_taps(members: Sequence[Sequence[str]]) -> dict[str, tuple[Place, ...]]:
    """Tap of the ensemble → the members' taps that it is made of; ``members`` are their taps.

    What several have of ``<modality>.embedding`` and ``logits`` is put together. Any other tap of a modality that
    several members see has ``part`` and the member's number behind the modality; where one sees it, its name stays.

    >>> places = member_taps([["image.embedding", "image.hidden.0"], ["image.embedding"]])
    >>> places["image.embedding"], places["image.part.1"]
    (((0, 'image.embedding'), (1, 'image.embedding')), ((1, 'image.embedding'),))
    >>> places["image.part.0.hidden.0"]
    ((0, 'image.hidden.0'),)
    """
    owners: dict[str, list[int]] = {}
    for number, taps in enumerate(members):
        for head in dict.fromkeys(tap.partition(".")[0] for tap in taps):
            owners.setdefault(head, []).append(number)
    shared: dict[str, list[Place]] = {}
    alone: dict[str, tuple[Place, ...]] = {}
    for number, taps in enumerate(members):
        for tap in taps:
            head, _, rest = tap.partition(".")
            if len(owners[head]) == 1:
                alone[tap] = ((number, tap),)
            elif rest == "embedding" or tap == "logits":
                shared.setdefault(tap, []).append((number, tap))
                alone[f"{head}.part.{number}"] = ((number, tap),)
            else:
                alone[f"{head}.part.{number}" + (f".{rest}" if rest else "")] = ((number, tap),)
    return {**{tap: tuple(places) for tap, places in shared.items()}, **alone}
