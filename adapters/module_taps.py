"""What passes through the parts of any module: outputs by module path, in one forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import AdapterError, hint

_ORIGINAL = "_orig_mod"
"""Under this name, what ``torch.compile`` makes of a module holds the module itself."""


def original(module: nn.Module) -> nn.Module:
    """The module itself, where ``module`` is what ``torch.compile`` made of it."""
    return getattr(module, _ORIGINAL, module)


def split_place(place: str) -> tuple[str, str | None]:
    """A module's path, and which part of its output is meant.

    >>> split_place("encoder.layers.3"), split_place("attention:1"), split_place(":pooler_output")
    (('encoder.layers.3', None), ('attention', '1'), ('', 'pooler_output'))
    """
    path, colon, part = place.partition(":")
    return path, part if colon else None


def check_paths(module: nn.Module, places: Mapping[str, str], owner: str) -> None:
    """Raises :class:`AdapterError` with the nearest paths for every place that ``module`` does not have."""
    known = dict(original(module).named_modules())
    wrong = {tap: path for tap, place in places.items() if (path := split_place(place)[0]) not in known}
    if wrong:
        lines = [
            f"{tap}: {owner} has no module {path!r}. {hint(path, filter(None, known))}" for tap, path in wrong.items()
        ]
        raise AdapterError("\n".join(lines))


def run_with_taps(
    module: nn.Module, places: Mapping[str, str], args: Sequence[Tensor], kwargs: Mapping[str, Tensor], owner: str
) -> dict[str, Tensor]:
    """One call of ``module``; tap → the output at its place. The path "" is the module's own output.

    Parts are read by forward hooks that live as long as the call. What they saw is copied at once, so that an in-place
    activation behind them changes nothing. Raises :class:`AdapterError` for a part that did not run, ran more than once
    or returned no tensor.
    """
    paths = {split_place(place)[0] for place in places.values()}
    if paths <= {""}:
        outputs: dict[str, Any] = {"": module(*args, **kwargs)}
    else:
        outputs = _run_hooked(module, paths, args, kwargs, owner)
    found = {}
    for tap, place in places.items():
        path, part = split_place(place)
        found[tap] = pick(outputs[path], part, f"{owner}, {tap} ({path or 'its own output'})")
    return found


@torch.compiler.disable(reason="hooks come and go with the taps")  # type: ignore[untyped-decorator, no-untyped-call]
def _run_hooked(
    module: nn.Module, paths: set[str], args: Sequence[Tensor], kwargs: Mapping[str, Tensor], owner: str
) -> dict[str, Any]:
    seen: dict[str, list[Any]] = {path: [] for path in paths if path}
    known = dict(original(module).named_modules())
    handles = [known[path].register_forward_hook(_keeper(seen[path])) for path in seen]
    # a compiled module does not look at hooks that came after it was compiled
    compiled = any(is_compiled(part) for part in (module, *known.values()))
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            whole = module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    for path, outputs in seen.items():
        if len(outputs) != 1:
            times = "did not run" if not outputs else f"ran {len(outputs)} times"
            raise AdapterError(
                f"{owner}: the module {path!r} {times} in one forward, so its output is no tap. Take a module that "
                "runs once, such as the one that holds it."
            )
    return {"": whole, **{path: outputs[0] for path, outputs in seen.items()}}


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile(module)`` or ``module.compile()`` was called."""
    return hasattr(module, _ORIGINAL) or getattr(module, "_compiled_call_impl", None) is not None


def _keeper(outputs: list[Any]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, given: Any, output: Any) -> None:
        outputs.append(_copied(output))

    return keep


def _copied(output: Any) -> Any:
    """The same structure, its tensors copied; what is none of those that we look into stays as it is."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, Mapping):
        return {key: _copied(value) for key, value in output.items()}
    if isinstance(output, tuple | list):
        return tuple(_copied(value) for value in output)
    return output


def pick(output: Any, part: str | None, owner: str) -> Tensor:
    """The tensor that is meant: ``part`` of a mapping or a tuple; without it the only one, or the first of a tuple."""
    if part is not None:
        output = _part(output, part, owner)
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    elif isinstance(output, Mapping):
        tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
        if len(tensors) != 1:
            raise AdapterError(
                f"{owner} is a mapping of {', '.join(map(str, output)) or 'nothing'}. Say which is meant behind a "
                "colon: 'PATH:NAME'."
            )
        output = output[tensors[0]]
    if not isinstance(output, Tensor):
        raise AdapterError(f"{owner} is a {type(output).__name__}, and a tap is a tensor.")
    return output


def _part(output: Any, part: str, owner: str) -> Any:
    if isinstance(output, Mapping) and part in output:
        return output[part]
    if (
        isinstance(output, tuple | list)
        and part.removeprefix("-").isdigit()
        and -len(output) <= int(part) < len(output)
    ):
        return output[int(part)]
    has = (
        f"a mapping of {', '.join(map(str, output))}"
        if isinstance(output, Mapping)
        else f"a {type(output).__name__} of {len(output)}"
        if isinstance(output, tuple | list)
        else f"a {type(output).__name__}"
    )
    raise AdapterError(f"{owner} is {has}; it has no part {part!r}.")
