"""The objective: taps → projections → losses → one number, and every term's own number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from typing_extensions import Self

from xmodal.adapters.encoder import Encoder, Features
from xmodal.errors import Mistake, RecipeError
from xmodal.objective.checking import check_terms, unique_labels
from xmodal.objective.dry_run import dry_run, unchanged
from xmodal.objective.references import STUDENT, Reference
from xmodal.objective.term import BoundTerm, valid
from xmodal.recipe import Term

__all__ = ["BoundTerm", "Objective", "check_terms", "unchanged", "unique_labels"]


class Objective(nn.Module):
    """A list of terms, and what they train beside the student: projections and learned scales.

    Models are called by name: ``student``, and ``teacher`` or the names under ``teachers``. Being a module, it brings
    its parameters to the optimizer, to DDP and to the checkpoint.

    ``Objective(terms)`` suits terms without projections. :meth:`build` makes one from real models and a real batch, and
    is what sizes projections. Both raise :class:`RecipeError` that lists every mistake.
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
        seed: int = 0,
    ) -> Self:
        """An objective that fits ``models`` and one real batch, ``views`` (model → its inputs), on its device.

        Each model runs once in the mode it is in, without gradient, and each loss is called once; parameters, buffers
        and random generators are as before. Projections start from ``seed`` and their term's label, so alike on every
        rank. Raises :class:`RecipeError` with all mistakes: names, options, taps, widths, shapes.
        """
        teachers = [name for name in models if name != STUDENT]
        checked, mistakes = check_terms(terms, teachers)
        bound, found = dry_run(checked, models, views, seed)
        if mistakes or found:
            raise RecipeError(sorted([*mistakes, *found], key=_position), "objective", "nothing was trained")
        objective = cls(terms, teachers=teachers)
        objective.terms.update(bound)
        return objective

    @property
    def relational(self) -> bool:
        """Whether a term compares rows with each other, so that its value depends on the whole batch."""
        return any(term.loss.kind == "relational" for term in self._terms())

    def taps(self) -> dict[str, tuple[str, ...]]:
        """Model → the taps it must return, masks included."""
        return _by_model(reference for term in self._terms() for reference in term.checked.all_references)

    def mask_taps(self) -> dict[str, tuple[str, ...]]:
        """Model → the taps that are masks: what :meth:`counts` needs."""
        return _by_model(term.checked.mask for term in self._terms() if term.checked.mask is not None)

    def forward(self, features: Mapping[str, Features], *, group: ProcessGroup | None = None) -> dict[str, Tensor]:
        """Label → the term's value on this part of a batch, unweighted: a mean over its items.

        With ``group``, relational terms see the rows of all its ranks, and their value is the whole batch's; gradients
        are right once averaged over ranks. Per-item terms stay this rank's: combine them by :meth:`counts`.
        """
        return {label: self.terms[label](features, group) for label in self.labels}

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Σ weight · value over the terms."""
        return torch.stack([term.checked.weight * values[label] for label, term in self._items()]).sum()

    def counts(self, masks: Mapping[str, Features], num_rows: int) -> dict[str, Tensor | int]:
        """Label → how many items the term averages over in this part of a batch.

        The valid entries of its mask tap, taken from ``masks`` (model → features), where it has one, else ``num_rows``.
        Parts of a batch, and ranks, combine exactly as Σ count · value / Σ count. For a relational term that holds over
        the ranks of its ``group`` only: the parts of an accumulated batch never see each other's rows.
        """
        return {
            label: num_rows if term.checked.mask is None else valid(masks, term.checked.mask).sum()
            for label, term in self._items()
        }

    def _items(self) -> list[tuple[str, BoundTerm]]:
        return list(zip(self.labels, self._terms(), strict=True))

    def _terms(self) -> list[BoundTerm]:
        return [term for label in self.labels if isinstance(term := self.terms[label], BoundTerm)]


def _position(mistake: Mistake) -> int:
    """Which term a mistake belongs to; the models' own come first."""
    section, _, rest = mistake.path.partition(".")
    return int(rest.partition(".")[0]) if section == "objective" and rest else -1


def _by_model(references: Iterable[Reference]) -> dict[str, tuple[str, ...]]:
    taps: dict[str, dict[str, None]] = {}
    for reference in references:
        taps.setdefault(reference.model, {})[reference.tap] = None
    return {model: tuple(names) for model, names in taps.items()}
