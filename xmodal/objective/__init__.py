"""The objective: taps → projections → losses → one number, and every term's own number."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from typing_extensions import Self

from xmodal.adapters.encoder import Encoder, Features
from xmodal.errors import Mistake, RecipeError, RunError
from xmodal.losses.state import RunningStandardisation
from xmodal.objective.checking import check_terms, unique_labels
from xmodal.objective.dry_run import dry_run, unchanged
from xmodal.objective.presence import Presence, only_rows, rows_with
from xmodal.objective.references import BATCH, STUDENT, Reference
from xmodal.objective.term import BoundTerm
from xmodal.recipe import Term

__all__ = ["BoundTerm", "Objective", "check_terms", "unchanged", "unique_labels"]


class Objective(nn.Module):
    """A list of terms, what they train beside the student (projections, fusions, learned scales and biases), and what
    they keep (running statistics of teachers' features, memory banks).

    Models are called by name: ``student``, and ``teacher`` or the names under ``teachers``; ``batch`` stands for the
    batch's own fields, such as ``label``. Being a module, it brings its parameters to the optimizer and to DDP, and all
    of it to the checkpoint.

    ``Objective(terms)`` suits terms that need no widths. :meth:`build` makes one from real models and a real batch, and
    is what sizes projections and the like. Both raise :class:`RecipeError` that lists every mistake.
    """

    labels: tuple[str, ...]

    def __init__(self, terms: Sequence[Term], *, teachers: Sequence[str] = ("teacher",)) -> None:
        super().__init__()
        checked, mistakes = check_terms(terms, teachers)
        if mistakes:
            raise RecipeError(mistakes, "objective")
        self.labels = tuple(entry.label for entry in checked)
        self.terms = nn.ModuleDict({entry.label: BoundTerm(entry) for entry in checked})

    @classmethod
    def build(
        cls,
        terms: Sequence[Term],
        models: Mapping[str, Encoder],
        views: Mapping[str, Mapping[str, Tensor]],
        *,
        fields: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> Self:
        """An objective that fits ``models`` and one real batch, on its device.

        ``views`` are each model's inputs, ``fields`` the batch's own. Each model runs once in the mode it is in,
        without gradient, and each loss is called once, or at both ends of its schedules; parameters, buffers and random
        generators are as before. Projections and fusions start from ``seed`` and their term's label, so alike on every
        rank. Raises :class:`RecipeError` with all mistakes: names, options, taps, widths, shapes.
        """
        teachers = [name for name in models if name != STUDENT]
        checked, mistakes = check_terms(terms, teachers)
        bound, found = dry_run(checked, models, views, fields or {}, seed)
        if mistakes or found:
            raise RecipeError(sorted([*mistakes, *found], key=_position), "objective", "nothing was trained")
        objective = cls(terms, teachers=teachers)
        objective.terms.update(bound)
        return objective

    @property
    def relational(self) -> bool:
        """Whether a term compares rows with each other, so that its value depends on the whole batch."""
        return any(term.loss.kind == "relational" for term in self._terms())

    @property
    def standardizes(self) -> bool:
        """Whether a term keeps running statistics of teachers' features, so that :meth:`observe` has what to learn."""
        return any(
            isinstance(module, RunningStandardisation)
            for term in self._terms()
            for module in term.standardisers.values()
        )

    @property
    def samples_to_measure(self) -> int:
        """How many more samples, that have its taps, a term is to :meth:`measure` before the first step."""
        return max((term.samples_to_measure for term in self._terms()), default=0)

    def taps(self) -> dict[str, tuple[str, ...]]:
        """Model → the taps it must return, masks included."""
        return _by_model(ref for ref in self._references() if ref.model != BATCH)

    def fields(self) -> tuple[str, ...]:
        """The batch's own fields that are asked for."""
        return _by_model(self._references()).get(BATCH, ())

    def references(self) -> list[tuple[Reference, ...]]:
        """Term by term, all taps that it asks for, masks included."""
        return [term.checked.all_references for term in self._terms()]

    def mask_taps(self) -> dict[str, tuple[str, ...]]:
        """Model → the taps that are masks: what :meth:`counts` needs."""
        masks = (reference for term in self._terms() for reference in term.checked.mask_references)
        return _by_model(reference for reference in masks if reference.model != BATCH)

    def forward(
        self,
        features: Mapping[str, Features],
        *,
        group: ProcessGroup | None = None,
        progress: float = 0.0,
        present: Presence | None = None,
    ) -> dict[str, Tensor]:
        """Label → the term's value on this part of a batch, unweighted: a mean over its items.

        With ``group``, relational terms see the rows of all its ranks, and their value is the whole batch's; gradients
        are right once averaged over ranks. Per-item terms stay this rank's: combine them by :meth:`counts`.
        ``progress``, from 0 at a stage's first step to 1 at its last, is what schedules follow. In training mode the
        teacher's rows wait for :meth:`settle` to go into the memory banks: call both once a step.

        ``present`` says which rows have a tap, where some have not. A term is about the rows that have all of its taps;
        one that finds none is left out.
        """
        values = {}
        for label, term in self._items():
            references = term.checked.all_references
            own = only_rows(references, features, rows_with(references, present))
            if own is not None:
                values[label] = term(own, group, progress)
        return values

    def observe(
        self,
        parts: Sequence[Mapping[str, Features]],
        *,
        group: ProcessGroup | None = None,
        present: Sequence[Presence] | None = None,
    ) -> None:
        """Learn the running statistics of teachers' features from the parts of a batch, on all ranks; once a step,
        before :meth:`forward`, which only applies them. Needs the teachers' taps and the masks.
        """
        for term in self._terms():
            if seen := _seen_by(term, parts, present):
                term.observe(seen, group)

    def measure(
        self,
        part: Mapping[str, Features],
        *,
        group: ProcessGroup | None = None,
        present: Presence | None = None,
    ) -> None:
        """Take a batch, this rank's part of it, into the statistics that are measured once; needs what
        :meth:`observe` needs. Call :meth:`fit` once :attr:`samples_to_measure` is 0. Ranks do not wait for each other
        here; those of ``group`` are taken to have as many samples as this one.
        """
        for term in self._terms():
            if seen := _seen_by(term, [part], [present or {}]):
                with _naming(term):
                    term.observe(seen, group, measure=True)

    def fit(self, group: ProcessGroup | None = None) -> None:
        """Compute what :meth:`measure` has seen enough for, on every rank of ``group`` from what all of them saw."""
        for term in self._terms():
            for module in term.unmeasured.values():
                with _naming(term):
                    module.fit(group)

    def measure_anew(self, before: Objective, teachers: Collection[str]) -> None:
        """After the tensors of the stage before were copied here: what was measured there stays, or the space that the
        student has learned would turn under it. But for other features, another method or teachers that are not among
        ``teachers``, those that are still the same, it is to be measured again.
        """
        known = dict(before._items())
        for label, term in self._items():
            term.measure_anew(known.get(label), teachers)

    def settle(self, *, taken: bool = True) -> None:
        """End a step, after its backward pass, on every rank: the teacher's rows that :meth:`forward` has seen go into
        the memory banks, in place of the oldest, or are forgotten where the step was not taken.
        """
        for term in self._terms():
            term.settle(taken)

    def weighted(self, values: Mapping[str, Tensor], progress: float = 0.0) -> dict[str, Tensor]:
        """Label → weight · value, of the values given."""
        items = [(label, term) for label, term in self._items() if label in values]
        return {label: term.checked.weight_at(progress) * values[label] for label, term in items}

    def total(self, values: Mapping[str, Tensor], progress: float = 0.0) -> Tensor:
        """Σ weight · value over the terms."""
        return torch.stack(list(self.weighted(values, progress).values())).sum()

    def scheduled(self, progress: float) -> dict[str, dict[str, float]]:
        """Label → the weight and options that change during the run, as they are at ``progress``."""
        changing = {label: term.checked.scheduled_at(progress) for label, term in self._items()}
        return {label: values for label, values in changing.items() if values}

    def counts(
        self, masks: Mapping[str, Features], num_rows: int, present: Presence | None = None
    ) -> dict[str, Tensor | int]:
        """Label → how many items the term averages over in this part of a batch.

        For a term with masks what its loss counts in them, taken from ``masks`` (model → features), else ``num_rows``.
        Parts of a batch, and ranks, combine exactly as Σ count · value / Σ count. For a relational term, which counts
        samples, that holds over the ranks of its ``group`` only: the parts of an accumulated batch never see each
        other's rows. ``present`` is as in :meth:`forward`; a term counts the rows that have all of its taps.
        """
        counted: dict[str, Tensor | int] = {}
        for label, term in self._items():
            references = term.checked.all_references
            rows = rows_with(references, present)
            own = only_rows(references, masks, rows)
            counted[label] = 0 if own is None else term.count(own, num_rows if rows is None else int(rows.sum()))
        return counted

    def learning_rate_factors(self) -> dict[nn.Parameter, float]:
        """What multiplies the run's learning rate, for the parameters that do not go by it alone."""
        return {
            parameter: term.checked.learning_rate_factor
            for term in self._terms()
            for parameter in term.projections.parameters()
            if term.checked.learning_rate_factor != 1
        }

    def _references(self) -> Iterable[Reference]:
        return (reference for term in self._terms() for reference in term.checked.all_references)

    def _items(self) -> list[tuple[str, BoundTerm]]:
        return list(zip(self.labels, self._terms(), strict=True))

    def _terms(self) -> list[BoundTerm]:
        return [term for label in self.labels if isinstance(term := self.terms[label], BoundTerm)]


@contextmanager
def _naming(term: BoundTerm) -> Iterator[None]:
    """Say of which term an error is."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{term.checked.path} ({term.checked.label}): {error}") from None


def _seen_by(
    term: BoundTerm, parts: Sequence[Mapping[str, Features]], present: Sequence[Presence] | None
) -> list[Mapping[str, Features]]:
    """The parts of a batch, with the rows alone that have all taps of the term; without those that have none."""
    references = term.checked.all_references
    own = [
        only_rows(references, part, rows_with(references, there))
        for part, there in zip(parts, present or [{}] * len(parts), strict=True)
    ]
    return [part for part in own if part is not None]


def _position(mistake: Mistake) -> int:
    """Which term a mistake belongs to; the models' own come first."""
    section, _, rest = mistake.path.partition(".")
    return int(rest.partition(".")[0]) if section == "objective" and rest else -1


def _by_model(references: Iterable[Reference]) -> dict[str, tuple[str, ...]]:
    taps: dict[str, dict[str, None]] = {}
    for reference in references:
        taps.setdefault(reference.model, {})[reference.tap] = None
    return {model: tuple(names) for model, names in taps.items()}
