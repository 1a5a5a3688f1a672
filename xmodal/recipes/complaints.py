"""What pydantic finds wrong with a recipe, said in plain words: what was given, what was expected, the nearest name."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from xmodal.errors import Mistake, hint, nearest
from xmodal.section import written_as
from xmodal.term import Schedule, Standardize

_ABBREVIATIONS = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "bs": "batch_size",
    "steps": "max_steps",
    "workers": "num_workers",
}
_EXAMPLES = {
    "name": "name: timm",
    "loss": "loss: feature_cosine",
    "student": "student: {name: image, model: tf_efficientnet_lite0}",
    "data": "data: {train: shards/*.tar}",
    "objective": "objective: [{loss: feature_cosine, student: image.embedding, teacher: text.embedding}]",
    "train": "train: {epochs: 8}",
}
_NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list[str]: "a list of texts",
    tuple[float, float]: "two numbers in brackets",
    Sequence[float]: "a list of numbers",
    Schedule: "a mapping {from: NUMBER, to: NUMBER}",
    Standardize: "a mapping {momentum: NUMBER}",
}


def mistakes_of(error: ValidationError, model: type[BaseModel], given: Any) -> list[Mistake]:
    """One mistake a key, in the order of the schema. ``given`` is what ``model`` was made from."""
    found: dict[tuple[str, ...], str] = {}
    for item in error.errors():
        path, field = _locate(item["loc"], model, given)
        own = _own_message(item)
        if own or path not in found:  # what a validator of ours says is more than that the type is another
            found[path] = own or _message(item, path, field, model)
    # a union complains once a branch: what is wrong inside the branch that was meant says more
    outer = {path for path in found for other in found if len(other) > len(path) and other[: len(path)] == path}
    return [Mistake(".".join(path), message) for path, message in found.items() if path not in outer]


def _message(item: Any, path: tuple[str, ...], field: _Place, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return f"no such key. {nearest_key(path, model)}"
    if item["type"] == "missing" and item["loc"][-1] == path[-1]:
        example = (
            "student: image.embedding"
            if path[:1] == ("objective",) and path[-1] == "student"
            else _EXAMPLES.get(path[-1])
        )
        return f"is missing; such as {example}" if example else f"is missing: {describe(field.annotation, field.info)}"
    return f"expected {describe(field.annotation, field.info)}; given {show(item['input'])}"


def _own_message(item: Any) -> str:
    error = item.get("ctx", {}).get("error")
    return "" if error is None else str(error)


class _Place:
    """Where in the schema an error lies."""

    def __init__(self, annotation: Any, info: FieldInfo | None = None) -> None:
        self.annotation, self.info = annotation, info


def _locate(location: tuple[int | str, ...], model: type[BaseModel], given: Any) -> tuple[tuple[str, ...], _Place]:
    """The dotted path of a pydantic location, without the names of union branches that stand between its parts."""
    path: list[str] = []
    place, value = _Place(model), given
    for part in location:
        if isinstance(value, BaseModel):
            value = value.model_dump()
        section = next((branch for branch in _branches(place.annotation) if is_model(branch)), None)
        if isinstance(value, Mapping) and section is not None and part in fields_of(section):
            info = fields_of(section)[str(part)]
            place = _Place(info.annotation, info)
        elif isinstance(value, Mapping) and part in value:
            inner = [get_args(branch)[1] for branch in _branches(place.annotation) if get_origin(branch) is dict]
            place = _Place(inner[0] if inner else Any)
        elif any(get_origin(branch) is tuple for branch in _branches(place.annotation)):
            break  # two numbers are one value
        elif isinstance(value, (list, tuple)) and isinstance(part, int):
            inner = [get_args(branch)[0] for branch in _branches(place.annotation) if get_args(branch)]
            place = _Place(inner[0] if inner else Any)
        else:
            continue  # the name of a union's branch
        path.append(str(part))
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(part, int) and part < len(value):
            value = value[part]
    return tuple(path), place


def _branches(annotation: Any) -> tuple[Any, ...]:
    """A union's members, nested unions flattened; anything else is its own only branch."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(branch for member in get_args(annotation) for branch in _branches(member))
    return (annotation,)


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a section, as they are written."""
    return {written_as(name, info): info for name, info in model.model_fields.items()}


def is_model(annotation: Any) -> bool:
    """Whether this is a section of the schema."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def describe(annotation: Any, info: FieldInfo | None = None) -> str:
    """What a value of this type looks like, bounds included.

    >>> describe(int | None), describe(Literal["cosine", "linear"])
    ('a whole number or null', 'cosine or linear')
    """
    if info is not None and info.description and any(hasattr(limit, "pattern") for limit in info.metadata):
        return info.description
    branches = _branches(annotation)
    words = [word for branch in branches if branch is not type(None) for word in _words(branch)]
    bounded = _any_of(words) + _bounds(info)
    if type(None) not in branches:
        return bounded
    return f"{bounded}, or null" if _bounds(info) else _any_of([*words, "null"])


def _any_of(words: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def _words(branch: Any) -> list[str]:
    if branch in _NOUNS:
        return [_NOUNS[branch]]
    if get_origin(branch) is Literal:
        return [str(choice) for choice in get_args(branch)]
    if get_origin(branch) is Annotated:  # an option's range, off a signature
        kind, *limits = get_args(branch)
        return [f"{describe(kind)} {_limits(limits, 'of at least')}"]
    if is_model(branch):
        options = branch.model_config.get("extra") == "allow"
        return [f"a mapping {{{next(iter(branch.model_fields))}: …}}" if options else _NOUNS.get(branch, "a mapping")]
    if get_origin(branch) in (dict, Mapping):
        inner = get_args(branch)[1]
        return ["a mapping" if inner is Any else f"a mapping from names to {describe(inner)}"]
    if get_origin(branch) is not None and issubclass(get_origin(branch), Sequence):
        (entry, *_) = get_args(branch)
        if get_origin(entry) is Annotated:
            kind, *limits = get_args(entry)
            return [f"a list of {'whole ' if kind is int else ''}numbers {_limits(limits, 'of at least')}"]
        of_mappings = any(is_model(member) or get_origin(member) is dict for member in get_args(branch))
        return ["a list of mappings" if of_mappings else "a list"]
    return [getattr(branch, "__name__", str(branch))]


def _bounds(info: FieldInfo | None) -> str:
    said = _limits(info.metadata if info is not None else ())
    return f", {said}" if said else ""


def _limits(metadata: Iterable[Any], at_least: str = "at least") -> str:
    low, high = [], []
    for limit in metadata:
        if isinstance(limit, bounds.Ge):
            low.append(f"{at_least} {limit.ge}")
        elif isinstance(limit, bounds.Gt):
            low.append(f"above {limit.gt}")
        elif isinstance(limit, bounds.Le):
            high.append(f"at most {limit.le}")
        elif isinstance(limit, bounds.Lt):
            high.append(f"below {limit.lt}")
        elif isinstance(limit, bounds.MinLen):
            low.append(f"with at least {limit.min_length} entry")
    return " and ".join([*low, *high])


def show(value: Any) -> str:
    """A given value as one would write it in a recipe, long ones named by their kind.

    >>> show("many"), show(True), show([1, 2]), show(None)
    ("the text 'many'", 'true', 'the list [1, 2]', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:57]!r}…"
    if isinstance(value, (list, tuple)):
        return f"the list {list(value)}" if len(repr(value)) <= 60 else f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}" if value else "an empty mapping"
    return repr(value)


def nearest_key(path: tuple[str, ...], model: type[BaseModel]) -> str:
    """A sentence that points from a key that does not exist to those that may have been meant, dotted."""
    parent, key = path[:-1], path[-1]
    key = _ABBREVIATIONS.get(key, key)
    known = list(_keys(model))
    siblings = [name[-1] for name in known if _stands_for(name[:-1], parent)]
    elsewhere = {
        ".".join(name): name[-1] for name in known if not (_stands_for(name[:-1], parent) or {"N", "*"} & set(name))
    }
    if key in siblings:
        found = [key]
    else:
        if exact := [name for name, last in elsewhere.items() if last == key]:
            return f"Nearest: {', '.join(exact)}"
        found = nearest(key, siblings, count=2)
    if found:
        return f"Nearest: {', '.join('.'.join((*parent, name)) for name in found)}"
    if close := nearest(key, set(elsewhere.values())):
        return f"Nearest: {', '.join(name for name, last in elsewhere.items() if last == close[0])}"
    return hint(key, siblings)


def _keys(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the schema, a list's index written N and a name that is free to choose ``*``."""
    for name, info in fields_of(model).items():
        yield (*prefix, name)
        for branch in _branches(info.annotation):
            if is_model(branch):
                yield from _keys(branch, (*prefix, name))
            elif get_origin(branch) is list and is_model(get_args(branch)[0]):
                yield from _keys(get_args(branch)[0], (*prefix, name, "N"))
            elif get_origin(branch) is dict:
                for inner in filter(is_model, _branches(get_args(branch)[1])):
                    yield from _keys(inner, (*prefix, name, "*"))


def _stands_for(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether a place of the schema is this one: N stands for any index, ``*`` for any name."""
    return len(pattern) == len(path) and all(
        part.isdigit() if known == "N" else known in ("*", part) for known, part in zip(pattern, path, strict=True)
    )
