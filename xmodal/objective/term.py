"""One term at work: features in, standardised, projected and masked; the loss's value out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from xmodal.adapters.encoder import Features
from xmodal.adapters.projections import make_projection
from xmodal.adapters.projections.measured import STANDARDISERS, Measured
from xmodal.data.hashing import stable_hash
from xmodal.errors import RunError
from xmodal.losses import Input, Loss
from xmodal.losses.distributed import num_ranks
from xmodal.losses.state import Fusion, MemoryBank, RunningStandardisation
from xmodal.objective.layout import along, arrange, feature_axis, width_last
from xmodal.objective.masks import given_masks
from xmodal.objective.references import STUDENT, Reference, change
from xmodal.objective.terms import CheckedTerm
from xmodal.objective.widths import Plan
from xmodal.term import Standardize


class BoundTerm(nn.Module):
    """A sound term with what it trains and keeps: projections and running statistics, one a tap; fusions, learned
    scales and biases; a memory bank.
    """

    def __init__(self, checked: CheckedTerm) -> None:
        super().__init__()
        if checked.loss is None or not checked.sound:
            raise ValueError("only a sound term can be bound")
        self.checked = checked
        self.loss: Loss = checked.loss
        self.sized = not checked.needs_widths
        self.learned = nn.ModuleDict({name: learned.make() for name, learned in checked.learned.items()})
        self.projections = nn.ModuleDict()
        self.standardisers = nn.ModuleDict()
        self._projected: frozenset[Reference] = frozenset()
        self.fusions = nn.ModuleDict()
        self.bank: MemoryBank | None = None
        self._seen: tuple[Tensor, ProcessGroup | None] | None = None
        self._num_measured = 0

    def size(self, plan: Plan, seed: int) -> None:
        """Make what needs sizes, but the standardisation.

        The same seed gives the same weights, on every rank; no RNG is consumed.
        """
        entry = self.checked
        self._projected = frozenset(plan.projections)
        for reference, sizes in plan.projections.items():
            key = _key(reference)
            with _own_generator("projection", seed, entry.label, key):
                assert entry.projection is not None  # planned only where there is one
                self.projections[key] = make_projection(entry.projection, sizes, entry.projection_options)
        for name, (student_dim, teacher_dim) in plan.fusions.items():
            with _own_generator("fusion", seed, entry.label, name):
                self.fusions[name] = Fusion(student_dim, teacher_dim)
        if plan.bank is not None and entry.bank is not None:
            self.bank = MemoryBank(entry.bank, plan.bank)
        self.sized = True

    def size_standardisation(self, plan: Plan) -> None:
        """Make what keeps statistics of the teachers' features."""
        for reference, dim in plan.standardised.items():
            assert self.checked.standardize is not None  # planned only where it is asked for
            self.standardisers[_key(reference)] = _make_standardiser(self.checked.standardize, dim)

    def forward(
        self, features: Mapping[str, Features], group: ProcessGroup | None = None, progress: float = 0.0
    ) -> Tensor:
        """The loss's mean over its items, unweighted. In training mode the teacher's rows wait for :meth:`settle`."""
        self._check_sized()
        masks = given_masks(self.checked.masks, features)
        inputs = {
            given.name: change(taps, partial(self._input, given, features, masks))
            for given, taps in zip(self.loss.inputs, self.checked.inputs, strict=True)
        }
        keywords: dict[str, Any] = {**self.checked.options, **masks, **self._changing(progress), **self.fusions}
        keywords |= {name: module() for name, module in self.learned.items()}
        if self.bank is not None:
            keywords["bank"] = self.bank.rows
        if self.loss.kind == "relational":
            keywords["group"] = group
        value = self.loss.function(*inputs.values(), **keywords)
        if self.bank is not None and self.training:
            rows = inputs[self.checked.bank_input]
            assert isinstance(rows, Tensor)
            # not pushed yet: the backward pass may need the bank as it is, and the step may not be taken
            self._seen = rows.detach(), group
        return value

    def settle(self, taken: bool) -> None:
        """Put the teacher's rows of the last call into the memory bank, or forget them."""
        seen, self._seen = self._seen, None
        if taken and seen is not None and self.bank is not None:
            self.bank.push(*seen)

    @property
    def unmeasured(self) -> dict[str, Measured]:
        """What is yet to be measured, before the first step, by the key of its tap."""
        modules = [*self.standardisers.items(), *self.projections.items()]
        found = {key: module for key, module in modules if isinstance(module, Measured)}
        return {key: module for key, module in found.items() if not bool(module.fitted)}

    @property
    def samples_to_measure(self) -> int:
        """How many more samples :meth:`observe` is to measure; 0 where there is nothing to."""
        return max(0, max((module.samples for module in self.unmeasured.values()), default=0) - self._num_measured)

    def measure_anew(self, before: BoundTerm | None, teachers: Collection[str]) -> None:
        """Of what came from the stage before, keep what was measured for the same purpose, of these ``teachers``."""
        own, other = self.checked, None if before is None else before.checked
        same = other is not None and all(
            getattr(own, name) == getattr(other, name) for name in ("standardize", "projection", "projection_options")
        )
        known = before.state_dict() if before is not None and same else {}
        for name, module in self.named_modules():
            if isinstance(module, Measured):
                key = name.partition(".")[2]
                matrix = known.get(f"{name}.matrix")
                if matrix is None or matrix.shape != module.matrix.shape or key.partition("/")[0] not in teachers:
                    module.forget()

    @torch.no_grad()
    def observe(
        self, parts: Sequence[Mapping[str, Features]], group: ProcessGroup | None = None, *, measure: bool = False
    ) -> None:
        """Learn the running statistics of the teachers' features from the parts of one batch; with ``measure`` those
        that stay, instead; the ranks of ``group`` are taken to have as many samples each.
        """
        self._check_sized()
        measured = self.unmeasured
        seen, num_samples = set(), 0
        for given, place, reference in self.checked.tensors:
            key = _key(reference)
            observer = measured.get(key) if measure else self._running(key)
            if key in seen or given.dtype != "float" or observer is None:
                continue
            seen.add(key)
            rows, valid, num_samples = [], [], 0
            for features in parts:
                feature = _features_last(given, arrange(given, reference, features[reference.model][reference.tap]))
                mask = _mask_of(given, place, feature, given_masks(self.checked.masks, features))
                num_samples += len(feature)
                rows.append(feature.flatten(0, -2))
                valid.append(torch.ones_like(feature[..., 0], dtype=torch.bool) if mask is None else mask)
            mask = torch.cat([part.flatten() for part in valid])
            if isinstance(observer, Measured):
                observer.observe(torch.cat(rows)[mask])  # ranks meet in fit
            else:
                observer(torch.cat(rows), mask=mask, group=group)
        self._num_measured += num_samples * num_ranks(group) if measure else 0

    def count(self, features: Mapping[str, Features], num_rows: int) -> Tensor | int:
        """How many items the mean is over. A relational one is over the samples of all ranks, whatever is masked."""
        if self.loss.kind == "relational" or not self.checked.masks:
            return num_rows
        return self.loss.count_items(given_masks(self.checked.masks, features))

    def _input(
        self,
        given: Input,
        features: Mapping[str, Features],
        masks: Mapping[str, Any],
        place: int | str | None,
        reference: Reference,
    ) -> Tensor:
        feature = arrange(given, reference, features[reference.model][reference.tap])
        if reference.model != STUDENT:
            # Only the student is taught, but a map on a teacher's features may learn: so cut here, not behind it.
            # Tensors made under inference_mode cannot take part in a backward pass; a copy of one can.
            feature = feature.clone() if feature.is_inference() else feature.detach()
        key, axis = _key(reference), feature_axis(given)
        if key in self.standardisers and given.dtype == "float" and axis is not None:
            standardise: Callable[..., Tensor] = self.standardisers[key]
            if isinstance(standardise, RunningStandardisation):
                mask = _mask_of(given, place, _features_last(given, feature), masks)
                standardise = partial(standardise, mask=mask, update=False)
            feature = along(axis, standardise, feature)
        # A teacher's tap that is mapped where it stands beside the student stays as it is among the teachers' inputs.
        if reference not in self._projected or axis is None:
            return feature
        module = self.projections[key]
        parameter = next(module.parameters(), None)
        dtype = feature.dtype if parameter is None else parameter.dtype
        project: Callable[..., Tensor] = module
        if self.checked.rungs:
            project = partial(module, rungs=[self._rung(rung, features, dtype) for rung in self.checked.rungs])
        return along(axis, project, feature.to(dtype))

    def _running(self, key: str) -> RunningStandardisation | None:
        module = self.standardisers[key] if key in self.standardisers else None  # noqa: SIM401 - ModuleDict has no get
        return module if isinstance(module, RunningStandardisation) else None

    def _rung(self, rung: Reference, features: Mapping[str, Features], dtype: torch.dtype) -> Tensor:
        return width_last(rung, features[rung.model][rung.tap]).to(dtype)

    def _changing(self, progress: float) -> dict[str, float]:
        """Options that change during the run."""
        return {name: value for name, value in self.checked.scheduled_at(progress).items() if name != "weight"}

    def _check_sized(self) -> None:
        if not self.sized:
            raise RunError(
                "a term with a projection, a fusion, a memory bank or standardised features needs widths: make the "
                "objective with Objective.build"
            )


def _make_standardiser(settings: Standardize, dim: int) -> nn.Module:
    if settings.method == "running":
        return RunningStandardisation(dim, momentum=settings.momentum)
    return STANDARDISERS[settings.method](dim, samples=settings.samples)


@contextmanager
def _own_generator(*parts: str | int) -> Iterator[None]:
    """Random numbers drawn here depend on ``parts`` alone, and the global generators are as before."""
    with torch.random.fork_rng(devices=[]):
        # the CPU's generator alone: torch.manual_seed would reseed the accelerators too
        torch.default_generator.manual_seed(stable_hash(*parts) >> 1)
        yield


def _mask_of(given: Input, place: int | str | None, feature: Tensor, masks: Mapping[str, Any]) -> Tensor | None:
    """The mask that says which items of a feature are valid, where one has an entry for each."""
    names = [f"{given.name.partition('_')[0]}_mask", "mask", "presence"]
    found = next((masks[name] for name in names if name in masks), None)
    if isinstance(found, Mapping):
        found = found.get(place)
    return found if isinstance(found, Tensor) and found.shape == feature.shape[:-1] else None


def _features_last(given: Input, feature: Tensor) -> Tensor:
    axis = feature_axis(given)
    return feature if axis is None else feature.movedim(axis, -1)


def _key(reference: Reference) -> str:
    return f"{reference.model}/{reference.tap}".replace(".", "/")
