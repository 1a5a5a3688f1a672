"""What each term of an objective asks of the student by itself, and which of them ask for opposite things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn


def keep_compiled_graphs() -> None:
    """Let what torch compiles from now on, in this process, be gone back through more than once.

    By default a compiled backward pass writes over what the forward pass has kept for it. Code that was compiled so
    must not be taken again, and torch's caches do not tell it apart: its gradients would be wrong without a word.
    """
    from torch._functorch import config as autograd_config
    from torch._inductor import config as inductor_config

    autograd_config.donated_buffer = False  # type: ignore[attr-defined]
    inductor_config.force_disable_caches = True
    torch.compiler.reset()


class TermGradients:
    """Each term's gradient with respect to the student's parameters, summed over the parts of a batch.

    It is taken on the graph that the step's own backward pass then uses, so it costs a backward pass a term and changes
    nothing that is trained.
    """

    def __init__(self, student: nn.Module) -> None:
        self._parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one part's terms, weighted as in the sum that is trained. Leaves the graph for the backward pass.

        A term that hangs on nothing that is trained, in this part, asks for nothing.
        """
        for label, value in values.items():
            gradients: tuple[Tensor | None, ...] = (None,) * len(self._parameters)
            if value.requires_grad:
                gradients = torch.autograd.grad(value, self._parameters, retain_graph=True, allow_unused=True)
            pairs = zip(self._parameters, gradients, strict=True)
            flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])
            self._sums[label] = self._sums[label] + flat if label in self._sums else flat

    def figures(self, scale: float, sum_over_ranks: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> dict[str, Any]:
        """``norms`` by term, and ``cosines`` of every two terms' gradients; no number where one is zero.

        ``scale`` is what the values were multiplied by.
        """
        sums = sum_over_ranks(self._sums)
        norms = {label: gradient.norm() for label, gradient in sums.items()}
        cosines: dict[str, dict[str, float]] = {}
        for first, second in combinations(sums, 2):
            # each by its own length first: the product of two gradients may be too small a number
            cosine = (sums[first] / norms[first]) @ (sums[second] / norms[second])
            cosines.setdefault(first, {})[second] = cosine.item()
        return {"norms": {label: norm.item() / scale for label, norm in norms.items()}, "cosines": cosines}
