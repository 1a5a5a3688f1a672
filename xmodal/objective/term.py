"""One term at work: features in, projected and masked; the loss's value out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from xmodal.adapters.encoder import Features
from xmodal.adapters.projections import PROJECTIONS
from xmodal.data.hashing import stable_hash
from xmodal.errors import RunError
from xmodal.losses import Input, Loss
from xmodal.objective.checking import CheckedTerm
from xmodal.objective.layout import arrange, may_move
from xmodal.objective.references import STUDENT, Reference


class BoundTerm(nn.Module):
    """A sound term with what it trains: its projections, one a projected tap, and its learned scales.

    A learned scale is kept as its logarithm, ``log_<option>``, so that steps are relative; the loss gets it
    exponentiated.
    """

    def __init__(self, checked: CheckedTerm) -> None:
        super().__init__()
        if checked.loss is None or not checked.sound:
            raise ValueError("only a sound term can be bound")
        self.checked = checked
        self.loss: Loss = checked.loss
        self.projections = nn.ModuleDict()
        for name, (first, _) in checked.learned.items():
            self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(first))))

    def add_projection(self, reference: Reference, in_dim: int, out_dim: int, seed: int) -> None:
        """Make the projection of one tap. The same seed gives the same weights, on every rank; no RNG is consumed."""
        name, key = self.checked.projection, _key(reference)
        if name is None:
            raise ValueError("the term has no projection")
        with torch.random.fork_rng(devices=[]):
            # the CPU's generator alone: torch.manual_seed would reseed the accelerators too
            torch.default_generator.manual_seed(stable_hash("projection", seed, self.checked.label, key) >> 1)
            self.projections[key] = PROJECTIONS[name](in_dim, out_dim, **self.checked.projection_options)

    def forward(self, features: Mapping[str, Features], group: ProcessGroup | None = None) -> Tensor:
        """The loss's mean over its items, unweighted."""
        if self.checked.projection is not None and not self.projections:
            raise RunError("a term with a projection needs widths: make the objective with Objective.build")
        pairs = zip(self.loss.inputs, self.checked.references, strict=True)
        inputs = [self._input(given, reference, features) for given, reference in pairs]
        keywords = {**self.checked.options, **self._scales()}
        if self.checked.mask is not None:
            keywords["mask"] = valid(features, self.checked.mask)
        if self.loss.kind == "relational":
            keywords["group"] = group
        return self.loss.function(*inputs, **keywords)

    def _input(self, given: Input, reference: Reference, features: Mapping[str, Features]) -> Tensor:
        feature = arrange(given, reference, features[reference.model][reference.tap])
        if reference.model != STUDENT:
            # Only the student is taught, but a map on a teacher's features may learn: so cut here, not behind it.
            # Tensors made under inference_mode cannot take part in a backward pass; a copy of one can.
            feature = feature.clone() if feature.is_inference() else feature.detach()
        key = _key(reference)
        if key not in self.projections or not may_move(given, reference, self.checked.side):
            return feature
        projection = self.projections[key]
        parameter = next(projection.parameters(), None)
        projected: Tensor = projection(feature if parameter is None else feature.to(parameter.dtype))
        return projected

    def _scales(self) -> dict[str, Tensor]:
        scales = {}
        for name, (_, largest) in self.checked.learned.items():
            parameter = self.get_parameter(f"log_{name}")
            with torch.no_grad():
                # In place: clamped only in the formula, a scale beyond its maximum would get no gradient to come back.
                parameter.clamp_(max=math.log(largest))
            scales[name] = parameter.exp()
        return scales


def valid(features: Mapping[str, Features], mask: Reference) -> Tensor:
    """A mask tap as booleans."""
    return features[mask.model][mask.tap] != 0


def _key(reference: Reference) -> str:
    return f"{reference.model}/{reference.tap}".replace(".", "/")
