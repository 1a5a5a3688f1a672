"""A user's own transform or tokenizing function as a model's preprocessing."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xmodal.adapters.encoder import Sample
from xmodal.adapters.preprocess import text_in, to_rgb
from xmodal.errors import AdapterError

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PARTS = "."


class ModulePreprocess:
    """``function`` over single pictures or sounds, or over a batch's texts.

    It returns a tensor, which the module gets as its one argument, or a mapping of tensors, its keyword arguments:
    inputs are called ``image``, or ``text.input_ids``. Pictures come in RGB, transparent ones laid on white; what it
    makes of single samples is stacked.
    """

    def __init__(self, modality: str, function: Callable[..., Any]) -> None:
        self.modality, self.function = modality, function
        self.fields: tuple[str, ...] = (modality,)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        if self.modality == "text":
            return {"text": text_in(sample)}  # a whole batch is tokenised at once, for padding
        value = sample[self.modality]
        return self._inputs(self.function(to_rgb(value) if self.modality == "image" else value))

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if self.modality == "text":
            return self._inputs(self.function([item["text"] for item in items]))
        try:
            return {name: torch.stack([item[name] for item in items]) for name in items[0]}
        except RuntimeError as error:
            shapes = sorted({str(list(item[name].shape)) for item in items for name in item})
            raise AdapterError(
                f"The preprocess of this module makes tensors of unlike shapes, {', '.join(shapes)}, which no batch "
                "can hold. Let it resize and crop, or pad, to one size."
            ) from error

    def _inputs(self, made: Any) -> dict[str, Tensor]:
        inputs = {self.modality: made} if not isinstance(made, Mapping) else _named(self.modality, made)
        for name, value in inputs.items():
            if not isinstance(value, Tensor):
                mend = " (tokenizers of transformers: return_tensors='pt')" if self.modality == "text" else ""
                raise AdapterError(
                    f"The preprocess of this module must return a tensor, or a mapping of tensors{mend}; given "
                    f"{type(value).__name__} for {name}."
                )
        return inputs

    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the module is called with: one tensor by its place, or tensors by name."""
        if self.modality in inputs:
            return (inputs[self.modality],), {}
        start = len(self.modality) + len(_PARTS)
        return (), {name[start:]: tensor for name, tensor in inputs.items()}

    def __repr__(self) -> str:
        return f"ModulePreprocess({self.modality}, {describe(self.function)})"


def _named(modality: str, made: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{modality}{_PARTS}{name}": value for name, value in made.items()}


def describe(value: Any, depth: int = 4) -> str:
    """What decides the outcome of a function or transform, in words that are the same in another process.

    A function is its code, its defaults and what it closes over; an object is its own representation, or its class and
    attributes where that only says its address.
    """
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *sorted(value.keywords.items()))
        return f"partial({', '.join(describe(part, depth - 1) for part in parts)})"
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {describe(value.__self__, depth - 1)}"
    if isinstance(value, types.FunctionType):
        cells = [
            cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()
        ]  # an empty one has none
        used = {name: value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__}
        held = [*(value.__defaults__ or ()), *cells, *used.items()]
        inner = [describe(part, depth - 1) for part in held] if depth > 0 else []
        return f"{value.__qualname__}[{_code_hash(value.__code__)}]({', '.join(inner)})"
    if isinstance(value, types.ModuleType):
        return value.__name__
    if hasattr(value, "backend_tokenizer"):  # its representation says nothing of its merges
        from xmodal.adapters.preprocess import TextPreprocess

        state = repr(sorted(TextPreprocess(value, 0).tokenizer_state().items()))
        return f"{type(value).__name__}[{hashlib.sha256(state.encode()).hexdigest()[:16]}]"
    if isinstance(value, tuple | list):
        return f"[{', '.join(describe(part, depth - 1) for part in value)}]"
    shown = repr(value)
    if not _ADDRESS.search(shown):
        return shown
    attributes = getattr(value, "__dict__", {}) if depth > 0 and not isinstance(value, type) else {}
    inner = [f"{name}={describe(held, depth - 1)}" for name, held in sorted(attributes.items())]
    return f"{_ADDRESS.sub('', shown)}({', '.join(inner)})"


def _code_hash(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code)
    for constant in code.co_consts:
        if isinstance(constant, frozenset):  # whose order is another in every process
            constant = sorted(constant, key=repr)
        digest.update((_code_hash(constant) if isinstance(constant, types.CodeType) else repr(constant)).encode())
    digest.update(repr((code.co_names, code.co_varnames)).encode())
    return digest.hexdigest()[:16]
