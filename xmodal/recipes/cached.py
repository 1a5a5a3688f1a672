"""``cached:`` beside a teacher's name: its features come from a cache, and it is not loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xmodal.errors import Mistake
from xmodal.recipe import Spec, as_dict

KEY = "cached"


def is_cached(spec: Spec) -> bool:
    """Whether a teacher's features come from a cache."""
    return bool(spec.options.get(KEY))


def cache_folder(spec: Spec) -> str | None:
    """The folder of the cache, None for beside the shards."""
    given = spec.options.get(KEY)
    return given if isinstance(given, str) else None


def without_cache(spec: Spec | Mapping[str, Any]) -> dict[str, Any]:
    """Name and options of the teacher itself."""
    given = spec.model_dump(mode="json") if isinstance(spec, Spec) else spec
    return {name: value for name, value in given.items() if name != KEY}


def real_options(spec: Spec) -> dict[str, Any]:
    """The options of the teacher itself."""
    return {name: value for name, value in spec.options.items() if name != KEY}


def cached_mistakes(path: str, spec: Mapping[str, Any], data: Any) -> Iterator[Mistake]:
    """What can be known to be wrong with a teacher's cache before anything is opened."""
    cached = spec.get(KEY)
    if cached is None or cached is False:
        return
    from xmodal.recipes.models import AVERAGE

    if spec.get("name") == AVERAGE:
        said = "cannot be: the student's moving average is another one after every step. Leave it out"
        yield Mistake(f"{path}.{KEY}", said)
        return
    if cached is not True and not (isinstance(cached, str) and cached):
        yield Mistake(f"{path}.{KEY}", f"expected true, or the folder of the cache; given {cached!r}")
    if isinstance(data, Mapping) and data.get("views") is None and _sees_pictures(path, spec) and _random(data):
        yield Mistake(
            "data.views",
            f"is missing: {path} is cached, and data.augment changes every picture anew each epoch. Say how many views "
            "of a picture there are to be, such as views: 10; each is stored.",
        )


def _sees_pictures(path: str, spec: Mapping[str, Any]) -> bool:
    from xmodal.recipes.models import outline

    known = outline(path, spec)
    return known is not None and any(tap.startswith("image.") for tap in known.taps)


def _random(data: Mapping[str, Any]) -> bool:
    from xmodal.data.cache.contract import changes_of, plain

    changes = data.get("augment")
    return isinstance(changes, Mapping) and bool(changes_of(plain(as_dict(changes)), "image"))
