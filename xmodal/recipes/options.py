"""Options of a recipe against the signature of what they go to."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from xmodal.errors import Mistake, hint, nearest
from xmodal.recipes.complaints import describe, show


class SchemeOptions:
    """A scheme's constructor without the five arguments that the loop fills."""

    def __init__(self, scheme: type) -> None:
        signature = inspect.signature(scheme)
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[5:])
        self.__annotations__ = typing.get_type_hints(inspect.getattr_static(scheme, "__init__"))

    def __call__(self) -> None:
        """Never called: only its signature is read."""


def option_mistakes(
    path: str,
    owner: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    filled: frozenset[str] = frozenset(),
) -> Iterator[Mistake]:
    """Options that ``function`` does not take, needs and is not given, or cannot take with such a value.

    ``filled`` are those that the library gives itself. A function that takes ``**options`` takes any name.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind != parameter.VAR_POSITIONAL
    }
    anything = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {name: parameter for name, parameter in parameters.items() if parameter.kind != parameter.VAR_KEYWORD}
    hints = typing.get_type_hints(function) if not isinstance(function, SchemeOptions) else function.__annotations__
    for name, value in options.items():
        if name in named:
            expected = _unfit(value, hints.get(name, Any))
            if expected:
                yield Mistake(f"{path}.{name}", f"expected {expected}; given {show(value)}")
        elif not anything:
            yield Mistake(f"{path}.{name}", f"no such option of {owner}. {_nearest(path, name, list(named))}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in options and name not in filled:
            wanted = describe(hints.get(name, str))
            yield Mistake(f"{path}.{name}", f"is missing: {owner} needs it, {wanted}")


def _nearest(path: str, name: str, known: list[str]) -> str:
    close = [f"{path}.{other}" for other in nearest(name, known)]
    if close:
        return f"Nearest: {', '.join(close)}"
    return hint(name, known) if known else "It takes none."


def _unfit(value: Any, annotation: Any) -> str | None:
    """What was expected, where ``value`` cannot be that; None where it can, or the annotation says nothing about it."""
    if isinstance(value, bool) and bool not in _flat(annotation) and Any not in _flat(annotation):
        return describe(annotation)
    if isinstance(value, str) and bool in _flat(annotation) and str not in _flat(annotation):
        return describe(annotation)  # "no" is taken for false by a check, and for true by Python
    try:
        TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError:
        return describe(annotation)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return None
    return None


def _flat(annotation: Any) -> tuple[Any, ...]:
    arguments = typing.get_args(annotation)
    return (annotation, *(member for argument in arguments for member in _flat(argument)))
