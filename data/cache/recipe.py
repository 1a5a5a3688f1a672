"""What a recipe asks of a cache: the jobs that write it, and the teachers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from xmodal.data.cache.contract import Contract, refuse_mixing, settings_of
from xmodal.data.cache.job import Job
from xmodal.data.cache.lookup import Lookup, check_presence, find_teacher
from xmodal.data.cache.places import Places
from xmodal.data.cache.shard import Request, stored_as, stored_taps
from xmodal.data.reading import Reading
from xmodal.data.stream_sources import StreamSource, open_sources
from xmodal.errors import DataError, RecipeError
from xmodal.recipe import Recipe
from xmodal.recipes.cached import cache_folder, is_cached, without_cache

if TYPE_CHECKING:
    from xmodal.adapters.teachers.cached import CachedTeacher


def reading_of(recipe: Recipe) -> Reading:
    """How the recipe's training stream reads its samples."""
    data = recipe.data
    own = {entry.name: getattr(data, entry.name) for entry in fields(Reading) if hasattr(data, entry.name)}
    return Reading(seed=recipe.train.seed, **own)


def taps_asked(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Teacher → the taps that the recipe's objective asks of it, as they are written there."""
    from xmodal.objective import check_terms

    checked, mistakes = check_terms(recipe.objective, list(recipe.all_teachers()))
    if mistakes:
        raise RecipeError(mistakes, recipe.name or "recipe")
    taps: dict[str, dict[str, None]] = {}
    for reference in (reference for term in checked for reference in term.all_references):
        taps.setdefault(reference.model, {})[reference.tap] = None
    return {name: tuple(taps.get(name, ())) for name in recipe.all_teachers()}


def jobs_of(recipe: Recipe, **options: Any) -> list[Job]:
    """A job for every teacher and source of the recipe, stage by stage; ``options`` are those of :class:`Job`.

    Raises :class:`~xmodal.errors.XmodalError` for what cannot be cached.
    """
    from xmodal.recipes import stages
    from xmodal.recipes.models import AVERAGE, GIVEN

    jobs: list[Job] = []
    for stage in stages(recipe):
        asked = taps_asked(stage)
        sources = open_sources(stage.data.train, stage.data.text, label=stage.data.label, stored=stage.data.stored)
        for name, spec in stage.all_teachers().items():
            if spec.name == AVERAGE:  # it changes at every step
                continue
            further = [tap for tap in asked[name] if tap.partition(".")[0] in (stage.data.texts or {})]
            if further and is_cached(spec):
                raise DataError(
                    f"{name} is asked for {further[0]}, and a cache holds what a teacher says of data.text alone. Make "
                    "that the text which it reads, and name the student's under data.texts; or leave it uncached."
                )
            if further:
                continue
            if spec.name == GIVEN:
                raise DataError(
                    f"The {name} of this recipe was an object handed over in Python, which no other process can make. "
                    "Name it in the recipe by what makes it."
                )
            own = {"out": cache_folder(spec), **{key: value for key, value in options.items() if value is not None}}
            jobs += [
                Job(
                    without_cache(spec),
                    asked[name],
                    source.shards,
                    reading_of(stage),
                    source.text,
                    source.fields,
                    seed=stage.train.seed,
                    **own,
                )
                for source in sources
            ]
    return list({_key(job): job for job in jobs}.values())


def _key(job: Job) -> str:
    what = (sorted(job.teacher.items(), key=str), job.taps, job.shards.paths, job.reading, job.text, job.fields)
    return repr((*what, job.out))


def open_cached(recipe: Recipe, name: str, sources: Sequence[StreamSource]) -> CachedTeacher:
    """The recipe's teacher called ``name`` from its cache, which has to hold all that the recipe asks of it.

    Raises :class:`DataError` that says what is missing, stale, short or foreign, and what mends it.
    """
    from xmodal.adapters.teachers.cached import CachedTeacher

    spec = recipe.all_teachers()[name]
    assert is_cached(spec)
    mend = f"Run: xmodal cache {_called(recipe)}"
    out = cache_folder(spec)
    places = [Places(source.shards, out) for source in sources]
    folders = list(dict.fromkeys(folder for place in places for folder in place.folders()))
    teacher = find_teacher(folders, without_cache(spec), mend)
    asked = taps_asked(recipe)[name]
    reading = reading_of(recipe)
    settings = settings_of(reading)
    requests = []
    for source, place in zip(sources, places, strict=True):
        contract = Contract(teacher, settings, source.text)
        refuse_mixing(contract)
        requests.append(Request(contract, stored_taps(asked, teacher, source.fields), place, reading))
        check_presence(requests[-1], mend)
    lookup = Lookup(requests, stored_taps(asked, teacher, frozenset()), mend)
    return CachedTeacher(spec.model_dump(mode="json"), teacher, lookup, {tap: stored_as(tap, teacher) for tap in asked})


def _called(recipe: Recipe) -> str:
    """The recipe as a command would name it."""
    from xmodal.recipes.loading import RECIPES

    return recipe.name if recipe.name in RECIPES else "RECIPE, the recipe of this run"
