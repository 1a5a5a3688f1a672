"""The dry run: one real batch through every tap, projection and loss, to find all mistakes before the first step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.errors import AdapterError, Mistake, XmodalError
from xmodal.objective.checking import CheckedTerm, model_path
from xmodal.objective.layout import arrange
from xmodal.objective.references import STUDENT, Reference
from xmodal.objective.term import BoundTerm
from xmodal.objective.widths import plan_projections
from xmodal.taps import resolve_tap


def dry_run(
    checked: Sequence[CheckedTerm],
    models: Mapping[str, Encoder],
    views: Mapping[str, Mapping[str, Tensor]],
    seed: int,
) -> tuple[dict[str, BoundTerm], list[Mistake]]:
    """Bound terms by label, and all that is wrong. Models, RNGs and gradients are left as they were."""
    references = [reference for entry in checked for reference in entry.all_references]
    found = [_check_tap(reference, models) for reference in references]
    mistakes = [mistake for mistake in found if mistake is not None]
    right = [reference for reference, mistake in zip(references, found, strict=True) if mistake is None]
    bound: dict[str, BoundTerm] = {}
    with unchanged(models.values()):
        features, more = _run_models(right, models, views)
        mistakes.extend(more)
        for entry in checked:
            if all(ref in right and ref.tap in features.get(ref.model, {}) for ref in entry.all_references):
                term, more = _try_term(entry, features, seed)
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


def _check_tap(reference: Reference, models: Mapping[str, Encoder]) -> Mistake | None:
    model = models[reference.model]
    try:
        resolve_tap(reference.tap, model.taps(), f"{reference.model} {model.name}")
    except AdapterError as error:
        return Mistake(reference.path, str(error))
    return None


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
    entry: CheckedTerm, features: Mapping[str, Features], seed: int
) -> tuple[BoundTerm | None, list[Mistake]]:
    if entry.loss is None or not entry.wired:
        return None, []
    pairs = zip(entry.loss.inputs, entry.references, strict=True)
    shapes = {ref: arrange(given, ref, features[ref.model][ref.tap]).shape for given, ref in pairs}
    if entry.mask is not None:
        shapes[entry.mask] = features[entry.mask.model][entry.mask.tap].shape
    plan, mistakes = plan_projections(entry, entry.loss, shapes)
    if mistakes or not entry.sound:
        return None, mistakes
    term = BoundTerm(entry)
    try:
        for reference, (in_dim, out_dim) in plan.items():
            term.add_projection(reference, in_dim, out_dim, seed)
    except AdapterError as error:
        return None, [Mistake(f"{entry.path}.projection", str(error))]
    term.to(next(features[ref.model][ref.tap].device for ref in entry.references if ref.model == STUDENT))
    mistake = _call(term, features)
    return (term, []) if mistake is None else (None, [mistake])


def _call(term: BoundTerm, features: Mapping[str, Features]) -> Mistake | None:
    """Call the loss once, on features that want gradient, and see that the value is a number that teaches."""
    entry, name = term.checked, term.loss.name
    taps = {
        reference.tap: features[STUDENT][reference.tap] for reference in entry.references if reference.model == STUDENT
    }
    leaves = {tap: tensor.detach().requires_grad_() for tap, tensor in taps.items() if tensor.is_floating_point()}
    parameters = dict(term.named_parameters())
    shapes = ", ".join(f"{ref} {list(features[ref.model][ref.tap].shape)}" for ref in entry.all_references)
    gradients: tuple[Tensor | None, ...] = ()
    try:
        with torch.enable_grad():
            value = term({**features, STUDENT: {**features[STUDENT], **leaves}})
        if value.requires_grad:
            wanted = [*leaves.values(), *parameters.values()]
            gradients = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (XmodalError, RuntimeError, TypeError, ValueError, IndexError) as error:
        return Mistake(entry.path, f"{name} refuses {shapes}:\n{error}")
    if value.ndim or not torch.isfinite(value):
        said = f"of shape {list(value.shape)}" if value.ndim else f"{value.item()}"
        return Mistake(entry.path, f"{name} is {said} on the first batch, no finite number, for {shapes}")
    if all(gradient is None for gradient in gradients[: len(leaves)]):
        return Mistake(entry.path, f"{name} gives no gradient to the student's taps")
    idle = [own for own, gradient in zip(parameters, gradients[len(leaves) :], strict=True) if gradient is None]
    return Mistake(entry.path, f"{name} gives no gradient to the term's own {', '.join(idle)}") if idle else None
