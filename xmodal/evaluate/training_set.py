"""Labelled samples that a probe or nearest neighbours learn from, and labelled ones that they are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xmodal.data.formats.clip_benchmark import layout_of, read_layout
from xmodal.errors import EvaluationError
from xmodal.evaluate.embedding import Embedded, embed
from xmodal.evaluate.labels import Label
from xmodal.evaluate.space import Side, Space
from xmodal.evaluate.split import Split
from xmodal.recipe import Shards

if TYPE_CHECKING:
    from xmodal.data.shards import ShardSet


@dataclass(frozen=True)
class Labelled:
    """Embeddings ``[N, D]`` with their classes ``[N]``, numbered from 0."""

    embeddings: Tensor
    classes: Tensor
    keys: list[str]


class TrainingSet:
    """The labelled samples of ``shards``, embedded once for a side however many splits ask.

    Of a folder in clip_benchmark's layout ``train`` is read. Raises :class:`EvaluationError` for one without it.
    """

    def __init__(
        self, shards: Shards | ShardSet, *, batch_size: int, num_workers: int, text: str = "txt", label: str = "cls"
    ) -> None:
        self.shards = _training_part(shards)
        self.paths = paths_of(self.shards)
        self.label = label
        self._reading = {"batch_size": batch_size, "num_workers": num_workers, "text": text, "label": label}
        self._tables: dict[tuple[int, str], tuple[Labelled, list[Label]]] = {}

    def read(self, side: Side) -> tuple[Labelled, list[Label]]:
        """The samples by ``side``, and the labels that their classes stand for, in order.

        Raises :class:`EvaluationError` where no sample has a label, or all have the same.
        """
        known = (id(side.encoder), side.tap)
        if known not in self._tables:
            table = embed(side.encoder, self.shards, modality=side.modality, tap=side.tap, **self._reading)  # type: ignore[arg-type]
            self._tables[known] = self._labelled(table)
        return self._tables[known]

    def asked(self, split: Split, side: Side) -> Labelled:
        """The labelled samples of ``split``, by the numbers of the training set's classes.

        Raises :class:`EvaluationError` where none has a label, or one has a label that no training sample has.
        """
        labels = self.read(side)[1]
        number = {label: index for index, label in enumerate(labels)}
        rows = [index for index, label in enumerate(split.labels) if label is not None]
        if side.modality == "text":
            embeddings = split.samples_with_text(side)
            place = {sample: row for row, sample in enumerate(split.with_text.tolist())}
            rows = [index for index in rows if index in place]
            taken = embeddings[[place[index] for index in rows]]
        else:
            taken = split.samples(side)[rows]
        if not rows:
            raise EvaluationError(_no_labels(f"split {split.name!r}", self.label))
        found = [label for index in rows if (label := split.labels[index]) is not None]
        strangers = [label for label in dict.fromkeys(found) if label not in number]
        if strangers:
            raise EvaluationError(
                f"{len(strangers)} labels of split {split.name!r} occur in no training sample, such as "
                f"{strangers[:5]}; the training set has {len(labels)}, such as {labels[:5]}. "
                "Both need the same labels: --train SHARDS"
            )
        return Labelled(taken, torch.tensor([number[label] for label in found]), [split.keys[row] for row in rows])

    def _labelled(self, table: Embedded) -> tuple[Labelled, list[Label]]:
        rows = [index for index, label in enumerate(table.labels) if label is not None]
        if not rows:
            raise EvaluationError(_no_labels("the training set", self.label))
        found = [label for index in rows if (label := table.labels[index]) is not None]
        labels = sorted(set(found), key=lambda label: (isinstance(label, str), label))
        if len(labels) < 2:
            raise EvaluationError(
                f"All {len(rows)} labelled samples of the training set have the label {labels[0]!r}; there is nothing "
                "to tell apart. A probe and nearest neighbours need two classes or more."
            )
        number = {label: index for index, label in enumerate(labels)}
        classes = torch.tensor([number[label] for label in found])
        return Labelled(table.embeddings[rows], classes, [table.keys[row] for row in rows]), labels


def need_training_set(train: TrainingSet | None, task: str) -> TrainingSet:
    """Raises :class:`EvaluationError` where a task has nothing to learn from."""
    if train is None:
        raise EvaluationError(
            f"Task {task!r} learns from labelled samples, and none were given. Name their shards: --train SHARDS, "
            "evaluate(..., train=SHARDS), or evaluate.train in a recipe."
        )
    return train


def facts(asked: Labelled, known: Labelled, labels: Sequence[Label]) -> dict[str, float]:
    """How many samples and classes there are, and what naming the training set's largest class for every one scores."""
    sizes = torch.bincount(known.classes)
    largest = (sizes == sizes.max()).double()
    return {
        "majority_top1": float((largest / largest.sum())[asked.classes].mean()),
        "num_labelled": len(asked.classes),
        "num_train": len(known.classes),
        "num_train_classes": len(labels),
    }


def own_side(space: Space) -> Side:
    """What is looked at: the student's pictures where it sees any, else its texts."""
    return space.student_side("image" if "image" in space.student.modalities else space.student.modalities[0])


def device_of(side: Side) -> torch.device:
    """Where to compute: the encoder's device, or the processor where that has no float64."""
    parameter = next(side.encoder.parameters(), None)
    return torch.device("cpu") if parameter is None or parameter.device.type == "mps" else parameter.device


def _training_part(shards: Shards | ShardSet) -> Shards | ShardSet:
    layout = layout_of(shards)
    if layout is None or not isinstance(shards, str | Path):
        return shards
    if layout.task == "multilabel":
        raise EvaluationError(
            f"{shards} has several labels a picture (dataset_type.txt: multilabel); a probe and nearest neighbours "
            "need one."
        )
    folder = Path(shards).expanduser()
    if (folder / "nshards.txt").is_file():  # a split, named outright
        return shards
    part = read_layout(folder, "train")
    if part is None or Path(part.shards[0]).parent.name != "train":
        raise EvaluationError(f"{folder} has no split 'train' to learn from. Name the split that is meant: {folder}/…")
    return list(part.shards)


def paths_of(shards: Shards | ShardSet) -> frozenset[str]:
    """The files of shards that were given as paths."""
    from xmodal.data import expand

    return frozenset(map(str, expand(shards))) if isinstance(shards, str | Path | list) else frozenset()


def _no_labels(what: str, label: str) -> str:
    return (
        f"No sample of {what} has a label in its member {label!r}. Name what holds it, such as --label json.label, or "
        "pack the pictures from a folder a class: xmodal data pack"
    )


def held_out(train: Labelled, seed: int, share: int = 5) -> Tensor:
    """Which of the training samples, ``[N]`` bool, are held out: every ``share``-th of each class, picked by ``seed``.

    By the samples' keys, so that the order of the shards does not matter. A class of one sample is never held out.
    """
    from xmodal.data.hashing import stable_hash

    by_class: dict[int, list[int]] = {}
    for row, number in enumerate(train.classes.tolist()):
        by_class.setdefault(number, []).append(row)
    out = torch.zeros(len(train.keys), dtype=torch.bool)
    for rows in by_class.values():
        ordered: Sequence[int] = sorted(rows, key=lambda row: stable_hash(seed, "probe", train.keys[row]))
        if len(rows) > 1:
            out[list(ordered[: max(1, round(len(rows) / share))])] = True
    return out
