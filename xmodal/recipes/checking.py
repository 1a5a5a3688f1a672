"""What can be known about a recipe before a weight is loaded: every mistake, by dotted path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from xmodal.errors import AdapterError, DataError, Mistake, hint
from xmodal.recipe import Augment, Recipe, Term
from xmodal.recipes.cached import KEY, cached_mistakes
from xmodal.recipes.loading import RECIPES, merge_stages
from xmodal.recipes.options import SchemeOptions, option_mistakes
from xmodal.taps import resolve_tap

if TYPE_CHECKING:
    from xmodal.objective.terms import CheckedTerm

_ONE_OF_TWO = "give max_steps or epochs, one of the two"


def check(recipe: Recipe) -> list[Mistake]:
    """Every mistake that can be found before a weight is loaded, in the order of the recipe's keys.

    Names of teachers, students, losses, projections, schemes, tasks and recipes; options against the signatures of what
    they go to; network names; taps where a model's are known; shards that do not exist; numbers that do not divide;
    and the same for every stage. What only the models and a batch can tell is left to the dry run.
    """
    return in_order(find_mistakes(recipe.to_dict()))


def find_mistakes(raw: Mapping[str, Any], known: Sequence[Mistake] = ()) -> list[Mistake]:
    """The mistakes of a recipe that may be broken; those of its keys and types are ``known``, and not repeated."""
    found = list(_find(raw, {mistake.path for mistake in known}))
    overrides = raw.get("stages")
    if isinstance(overrides, list) and all(isinstance(override, Mapping) for override in overrides):
        found.extend(_of_stages(raw, overrides, [*known, *found]))
    return list(dict.fromkeys(mistake for mistake in found if mistake not in known))


def in_order(mistakes: Sequence[Mistake]) -> list[Mistake]:
    """By section, in the order of the schema, and by number in a list; keys that do not exist come last."""
    sections = list(Recipe.model_fields)

    def place(mistake: Mistake) -> tuple[int, int]:
        section, _, rest = mistake.path.partition(".")
        number = rest.partition(".")[0]
        return (
            sections.index(section) if section in sections else len(sections),
            int(number) if number.isdigit() else 0,
        )

    return sorted(mistakes, key=place)


def _find(raw: Mapping[str, Any], known: set[str]) -> Iterator[Mistake]:
    teachers = _teachers(raw)
    models = {**dict(teachers.values()), "student": raw.get("student")}
    for path, spec in models.items():
        if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
            yield from _of_model(path, spec, _filled(raw, teachers) if path == "student" else frozenset())
            yield from cached_mistakes(path, spec, raw.get("data")) if path != "student" else ()
            yield from stored_mistakes(path, spec, raw.get("data"))
    yield from _of_data(raw.get("data"))
    yield from _of_terms(raw, teachers)
    yield from _of_scheme(raw.get("scheme"))
    yield from _of_train(raw.get("train"), raw.get("data"), known)
    yield from _of_evaluation(raw.get("evaluate"))
    baseline = raw.get("baseline")
    if isinstance(baseline, str) and baseline not in RECIPES:
        yield Mistake("baseline", f"{baseline!r} is not a recipe. {hint(baseline, RECIPES)}")


def stored_mistakes(path: str, spec: Mapping[str, Any], data: Any) -> Iterator[Mistake]:
    """What cannot go with a teacher whose embeddings are stored: pictures that are changed by other parameters."""
    augment = data.get("augment") if isinstance(data, Mapping) else None
    if path == "student" or spec["name"] != "reinforced" or not augment:
        return
    try:
        changes = Augment.model_validate(augment) != Augment()
    except ValidationError:
        return  # what is wrong with it was said already
    if changes:
        yield Mistake(
            "data.augment",
            "does nothing beside teacher 'reinforced': every picture is changed by the parameters that are stored with "
            "its embedding. Leave it out.",
        )


def _teachers(raw: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Name → (path, spec)."""
    if raw.get("teacher") is not None:
        return {"teacher": ("teacher", raw["teacher"])}
    several = raw.get("teachers")
    return {name: (f"teachers.{name}", spec) for name, spec in several.items()} if isinstance(several, Mapping) else {}


def _filled(raw: Mapping[str, Any], teachers: Mapping[str, Any]) -> frozenset[str]:
    """Options of a student that follow from the rest of the recipe where it leaves them open."""
    data = raw.get("data")
    sized = isinstance(data, Mapping) and data.get("image_size") is not None
    return frozenset([*(["embed_dim"] if teachers else []), *(["image_size"] if sized else [])])


def _of_model(path: str, spec: Mapping[str, Any], filled: frozenset[str]) -> Iterator[Mistake]:
    from xmodal.recipes.models import GIVEN, factory_of, model_mistakes

    if spec["name"] == GIVEN:
        return
    kept = ("name",) if path == "student" else ("name", KEY)
    options = {key: value for key, value in spec.items() if key not in kept}
    factory, mistake = factory_of(path, spec["name"])
    if mistake is not None:
        yield mistake
    if factory is not None:
        kind = "student" if path == "student" else "teacher"
        yield from option_mistakes(path, f"{kind} {spec['name']!r}", factory, options, filled)
        yield from model_mistakes(path, spec["name"], options)


def _of_data(data: Any) -> Iterator[Mistake]:
    if not isinstance(data, Mapping):
        return
    yield from _of_shards((*_shards("data.train", data.get("train")), *_shards("data.val", data.get("val"))))


def _of_shards(given: Iterable[tuple[str, Any]]) -> Iterator[Mistake]:
    from xmodal.data import expand

    for path, shards in given:
        if not isinstance(shards, str) and not (
            isinstance(shards, list) and all(isinstance(entry, str) for entry in shards)
        ):
            continue
        try:
            expand(shards)
        except DataError as error:
            yield Mistake(path, str(error))


def _shards(path: str, given: Any) -> Iterator[tuple[str, Any]]:
    """(path, shards) of shards, of shards by name, and of sources by name, whose settings hold them."""
    if not isinstance(given, Mapping):
        yield path, given
        return
    for name, own in given.items():
        yield (f"{path}.{name}.shards", own.get("shards")) if isinstance(own, Mapping) else (f"{path}.{name}", own)


def _of_terms(raw: Mapping[str, Any], teachers: Mapping[str, tuple[str, Any]]) -> Iterator[Mistake]:
    from xmodal.objective import check_terms

    given = raw.get("objective")
    read = [_term(entry) for entry in given] if isinstance(given, list) else []
    terms = {number: term for number, term in enumerate(read) if term is not None}
    if not terms:
        return
    numbers = list(terms)
    checked, mistakes = check_terms(list(terms.values()), list(teachers))
    for mistake in mistakes:
        if mistake.path.startswith("objective."):
            yield Mistake(_renumber(mistake.path, numbers), mistake.message)
        elif len(terms) == len(read):  # a teacher that no term uses: perhaps the broken one does
            yield mistake
    train = raw.get("train")
    if isinstance(train, Mapping):
        yield from _of_parts(train.get("accumulate", 1), checked)
    models = {**teachers, "student": ("student", raw.get("student"))}
    data = raw.get("data")
    texts = data.get("texts") if isinstance(data, Mapping) else None
    for mistake in _of_taps(checked, models, list(texts) if isinstance(texts, Mapping) else []):
        yield Mistake(_renumber(mistake.path, numbers), mistake.message)


def _term(entry: Any) -> Term | None:
    try:
        return Term.model_validate(entry)
    except ValidationError:
        return None  # what is wrong with it was said already


def _of_parts(accumulate: Any, terms: Sequence[CheckedTerm]) -> Iterator[Mistake]:
    relational = [term.loss.name for term in terms if term.loss is not None and term.loss.kind == "relational"]
    if isinstance(accumulate, int) and accumulate > 1 and relational:
        names = ", ".join(dict.fromkeys(relational))
        yield Mistake(
            "train.accumulate",
            f"is {accumulate}, but {names} compares all samples of a batch with one another, "
            "which a part of it does not hold. Use accumulate: 1 and a smaller batch_size, or per-item losses only.",
        )


def _of_taps(
    terms: Sequence[CheckedTerm], models: Mapping[str, tuple[str, Any]], texts: Sequence[str]
) -> Iterator[Mistake]:
    from xmodal.recipes.models import AVERAGE, outline

    outlines = {}
    for name, (path, spec) in models.items():
        of_student = isinstance(spec, Mapping) and spec.get("name") == AVERAGE  # whose taps it has
        outlines[name] = outline(*(models["student"] if of_student else (path, spec)), texts)
    for reference in (reference for term in terms for reference in term.all_references):
        known = outlines.get(reference.model)
        if known is None or known.has(reference.tap):
            continue
        try:
            resolve_tap(reference.tap, known.taps, known.owner)
        except AdapterError as error:
            yield Mistake(reference.path, str(error))


def _renumber(path: str, numbers: Sequence[int]) -> str:
    section, number, *rest = path.split(".")
    return ".".join([section, str(numbers[int(number)]), *rest])


def _of_scheme(scheme: Any) -> Iterator[Mistake]:
    from xmodal.schemes import SCHEMES

    spec = {"name": scheme} if isinstance(scheme, str) else scheme
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        return
    name = spec["name"]
    if name not in SCHEMES:
        yield Mistake("scheme", f"{name!r} is not a scheme. {hint(name, SCHEMES)}")
        return
    options = {key: value for key, value in spec.items() if key != "name"}
    yield from option_mistakes("scheme", f"scheme {name!r}", SchemeOptions(SCHEMES[name]), options)


def _of_train(train: Any, data: Any, known: set[str]) -> Iterator[Mistake]:
    if not isinstance(train, Mapping):
        return
    lengths = [train.get("max_steps") is not None, train.get("epochs") is not None]
    if lengths[0] == lengths[1] and not {"train", "train.max_steps", "train.epochs"} & known:
        yield Mistake("train", _ONE_OF_TWO)
    batch, parts = train.get("batch_size", 256), train.get("accumulate", 1)
    slots = data.get("slots") if isinstance(data, Mapping) else None
    for path, divisor in (("train.accumulate", parts), ("data.slots", slots)):
        if type(batch) is int and type(divisor) is int and divisor > 0 and batch % divisor and path not in known:
            yield Mistake(path, f"{divisor} does not divide train.batch_size, which is {batch}")


def _of_evaluation(evaluation: Any) -> Iterator[Mistake]:
    from xmodal.evaluate import TASKS

    if not isinstance(evaluation, Mapping):
        return
    tasks, templates = evaluation.get("tasks"), evaluation.get("templates")
    yield from _of_shards([("evaluate.train", evaluation.get("train"))])
    for number, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if isinstance(task, str) and task not in TASKS:
            yield Mistake(f"evaluate.tasks.{number}", f"{task!r} is not a task. {hint(task, TASKS)}")
    for number, template in enumerate(templates if isinstance(templates, list) else ()):
        if isinstance(template, str) and "{}" not in template:
            yield Mistake(
                f"evaluate.templates.{number}", f"{template!r} has no place for the class's name; write {{}} there"
            )


def _of_stages(
    raw: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]], known: Sequence[Mistake]
) -> Iterator[Mistake]:
    """What the stages add to the mistakes of the whole recipe."""
    made, mistakes = merge_stages({key: value for key, value in raw.items() if key != "stages"}, overrides)
    said = {(mistake.path, mistake.message) for mistake in known}
    for number, stage in made.items():
        mistakes.extend(
            Mistake(f"stages.{number}.{wrong.path}", wrong.message) for wrong in _find(stage.to_dict(), set())
        )
    for mistake in mistakes:
        _, _, path = mistake.path.split(".", 2)
        if (path, mistake.message) not in said:
            said.add((path, mistake.message))  # stages inherit from one another
            yield mistake
