"""The dry run: one real batch through every tap, projection and loss, to find all mistakes before the first step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.errors import AdapterError, Mistake, XmodalError
from xmodal.losses import Input, Loss
from xmodal.objective.checking import model_path
from xmodal.objective.layout import arrange, width_last
from xmodal.objective.padding import check_padding, check_rungs
from xmodal.objective.references import BATCH, STUDENT, Reference
from xmodal.objective.term import BoundTerm
from xmodal.objective.terms import CheckedTerm
from xmodal.objective.trial import try_call
from xmodal.objective.widths import plan_widths
from xmodal.taps import resolve_tap


def dry_run(
    checked: Sequence[CheckedTerm],
    models: Mapping[str, Encoder],
    views: Mapping[str, Mapping[str, Tensor]],
    fields: Mapping[str, Tensor],
    seed: int,
) -> tuple[dict[str, BoundTerm], list[Mistake]]:
    """Bound terms by label, and all that is wrong. Models, RNGs and gradients are left as they were."""
    references = [reference for entry in checked for reference in entry.all_references]
    found = [_check_tap(reference, models, fields) for reference in references]
    mistakes = [mistake for mistake in found if mistake is not None]
    right = [reference for reference, mistake in zip(references, found, strict=True) if mistake is None]
    bound: dict[str, BoundTerm] = {}
    with unchanged(models.values()):
        features, more = _run_models(right, models, views)
        features[BATCH] = dict(fields)
        mistakes.extend(more)
        for entry in checked:
            if all(ref in right and ref.tap in features.get(ref.model, {}) for ref in entry.all_references):
                term, more = _try_term(entry, models, features, seed)
                mistakes.extend(more)
                if term is not None:
                    bound[entry.label] = term
    return bound, mistakes


@contextmanager
def unchanged(models: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards every buffer (BatchNorm's statistics) and every random generator is as it was before."""
    modules = [module for model in models for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = {parameter.device for module in modules for parameter in module.parameters(recurse=False)}
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device_type in {device.type for device in devices} - {"cpu", "meta"}:
            indices = [device.index or 0 for device in devices if device.type == device_type]
            stack.enter_context(torch.random.fork_rng(devices=sorted(set(indices)), device_type=device_type))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    buffer.copy_(value)
                    module._buffers[name] = buffer  # some modules put a new tensor in its place


def _check_tap(reference: Reference, models: Mapping[str, Encoder], fields: Mapping[str, Tensor]) -> Mistake | None:
    if reference.model == BATCH:
        return None if reference.tap in fields else Mistake(reference.path, _no_field(reference.tap, fields))
    model = models[reference.model]
    try:
        resolve_tap(reference.tap, model.every_tap(), f"{reference.model} {model.name}")
    except AdapterError as error:
        return Mistake(reference.path, str(error))
    return None


def _no_field(name: str, fields: Mapping[str, Tensor]) -> str:
    has = f"it has {', '.join(fields)}" if fields else "it has none"
    if name == "label":
        return (
            "the data have no labels: a label is the whole number in a sample's member cls, and every sample needs one"
        )
    return f"a batch of these data has no field of numbers called {name!r}; {has}"


def _run_models(
    references: Sequence[Reference], models: Mapping[str, Encoder], views: Mapping[str, Mapping[str, Tensor]]
) -> tuple[dict[str, Features], list[Mistake]]:
    """Features of each model, computed once, without gradient."""
    features: dict[str, Features] = {}
    mistakes = []
    for name, model in models.items():
        taps = list(dict.fromkeys(reference.tap for reference in references if reference.model == name))
        if not taps:
            continue
        try:
            with torch.no_grad():
                given = model(views[name], taps)
        except XmodalError as error:
            mistakes.append(Mistake(model_path(name, [other for other in models if other != STUDENT]), str(error)))
            continue
        # a model that cannot give a tap may hand out None or nothing at all (attentions under SDPA)
        features[name] = {tap: given[tap] for tap in taps if isinstance(given.get(tap), Tensor) and given[tap].numel()}
        mistakes.extend(
            Mistake(reference.path, f"{model.name} gave nothing for {reference.tap} on this batch")
            for reference in references
            if reference.model == name and reference.tap not in features[name]
        )
    return features, mistakes


def _try_term(
    entry: CheckedTerm, models: Mapping[str, Encoder], features: Mapping[str, Features], seed: int
) -> tuple[BoundTerm | None, list[Mistake]]:
    if entry.loss is None or not entry.wired:
        return None, []
    tensors = {ref: arrange(given, ref, features[ref.model][ref.tap]) for given, _, ref in entry.tensors}
    wrong = [m for given, _, ref in entry.tensors if (m := _check_dtype(entry.loss, given, ref, tensors[ref]))]
    shapes = {reference: tensor.shape for reference, tensor in tensors.items()}
    wrong += check_padding(entry, entry.loss, models, shapes)
    shapes |= {reference: features[reference.model][reference.tap].shape for reference in entry.mask_references}
    shapes |= {rung: width_last(rung, features[rung.model][rung.tap]).shape for rung in entry.rungs}
    wrong += check_rungs(entry, models, shapes)
    plan, mistakes = plan_widths(entry, entry.loss, shapes)
    if wrong or mistakes or not entry.sound:
        return None, [*wrong, *mistakes]
    term = BoundTerm(entry)
    sizing = {"projection": partial(term.size, plan, seed), "standardize": partial(term.size_standardisation, plan)}
    for key, make in sizing.items():
        try:
            make()
        except AdapterError as error:
            mistakes.append(Mistake(f"{entry.path}.{key}", str(error)))
    if mistakes:
        return None, mistakes
    term.to(next(features[ref.model][ref.tap].device for ref in entry.references if ref.model == STUDENT))
    term.eval()  # so that nothing is remembered of this batch
    mistake = try_call(term, features)
    term.train()
    return (term, []) if mistake is None else (None, [mistake])


def _check_dtype(loss: Loss, given: Input, reference: Reference, tensor: Tensor) -> Mistake | None:
    """Numbers of another kind than the loss takes."""
    is_float = tensor.is_floating_point()
    if is_float == (given.dtype == "float"):
        return None
    kinds = ("numbers with a fraction", "whole numbers")
    wanted, found = kinds if given.dtype == "float" else kinds[::-1]
    return Mistake(reference.path, f"{reference} holds {found} ({tensor.dtype}); {loss.name} takes {wanted} here")
