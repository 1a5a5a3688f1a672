"""One call of a term's loss on real features: is the value a number, and does it teach?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xmodal.adapters.encoder import Features
from xmodal.errors import Mistake, XmodalError
from xmodal.objective.references import STUDENT
from xmodal.objective.term import BoundTerm


def try_call(term: BoundTerm, features: Mapping[str, Features]) -> Mistake | None:
    """What is wrong with the term on these features, at both ends of its schedules where it has some."""
    if not term.checked.scheduled:
        return _call(term, features, 0.0, "")
    for progress, end in ((0.0, "start"), (1.0, "end")):
        values = term.checked.scheduled_at(progress)
        said = ", ".join(f"{name} {values[name]:g}" for name in term.checked.scheduled)
        mistake = _call(term, features, progress, f"at the {end} of its schedule ({said}) ")
        if mistake is not None:
            return mistake
    return None


def _call(term: BoundTerm, features: Mapping[str, Features], progress: float, when: str) -> Mistake | None:
    """Call the loss once, on features that want gradient, and see that the value is a number that teaches."""
    entry, name = term.checked, f"{when}{term.loss.name}"
    taps = {
        reference.tap: features[STUDENT][reference.tap] for reference in entry.references if reference.model == STUDENT
    }
    leaves = {tap: tensor.detach().requires_grad_() for tap, tensor in taps.items() if tensor.is_floating_point()}
    parameters = dict(term.named_parameters())
    shapes = ", ".join(f"{ref} {list(features[ref.model][ref.tap].shape)}" for ref in entry.all_references)
    given = {**features, STUDENT: {**features.get(STUDENT, {}), **leaves}}
    gradients: tuple[Tensor | None, ...] = ()
    try:
        with torch.enable_grad():
            value = term(given, progress=progress)
        term.count(given, 1)
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
