"""`evaluate`: a student, some splits and some tasks in; the figures out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xmodal.adapters.encoder import Encoder
from xmodal.data.formats.clip_benchmark import ShardFolder, layout_of
from xmodal.errors import EvaluationError, hint
from xmodal.evaluate.agreement import agreement
from xmodal.evaluate.bootstrap import Figures, settled
from xmodal.evaluate.embedding import untouched
from xmodal.evaluate.knn import knn
from xmodal.evaluate.metrics import METRICS, TASKS
from xmodal.evaluate.mixed_index import mixed_index
from xmodal.evaluate.probe import Probes, probe
from xmodal.evaluate.retrieval import gallery as gallery_rows
from xmodal.evaluate.retrieval import retrieval
from xmodal.evaluate.space import Space, open_space
from xmodal.evaluate.split import Split, TextEmbeddings
from xmodal.evaluate.text_retrieval import text_retrieval
from xmodal.evaluate.training_set import TrainingSet, need_training_set, paths_of
from xmodal.evaluate.zero_shot import ClassNames, check_templates, zero_shot
from xmodal.recipe import Shards

if TYPE_CHECKING:
    from xmodal.data.shards import ShardSet

logger = logging.getLogger("xmodal")

Captions = Literal["one", "all"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured. Every metric's definition is in :data:`xmodal.evaluate.METRICS`."""

    metrics: dict[str, dict[str, float]]
    """Split → metric → figure, followed by ``METRIC_low`` and ``METRIC_high`` where an interval was asked for."""
    gallery: list[dict[str, Any]] = field(default_factory=list)
    """Rows ``{"split", "query", "hits": [{"key", "text", "score", "correct"}]}``, best hit first."""

    def to_dict(self) -> dict[str, Any]:
        return {"metrics": self.metrics, "gallery": self.gallery}

    def table(self) -> str:
        """One line a metric, one column a split.

        >>> print(Evaluation({"seen": {"chance_recall@10": 0.0062, "num_texts": 1711}}).table())
                            seen
        chance_recall@10  0.0062
        num_texts           1711
        """
        names = [metric for metric in METRICS if any(metric in split for split in self.metrics.values())]
        columns = [["", *names]]
        for split, values in self.metrics.items():
            columns.append([split, *(_figure(metric, values) for metric in names)])
        widths = [max(map(len, column)) for column in columns]
        lines = []
        for first, *figures in zip(*columns, strict=True):
            aligned = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *aligned]))
        return "\n".join(lines)


def evaluate(
    student: Encoder | str | Path,
    data: Shards | ShardSet | Mapping[str, Shards | ShardSet],
    *,
    tasks: Sequence[str] = ("retrieval",),
    teachers: Mapping[str, Encoder] | None = None,
    class_names: ClassNames | None = None,
    templates: Sequence[str] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    text: str = "txt",
    label: str = "cls",
    query: str | None = None,
    captions: Captions | None = None,
    train: Shards | ShardSet | None = None,
    knn_k: int = 20,
    knn_temperature: float = 0.07,
    bootstrap: int = 0,
    gallery: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Measure ``student``, an encoder or a student or run folder, on one set of shards or several by name.

    A side (text or pictures) that the student lacks is embedded by the teacher in whose space it lies: the one in
    ``teachers``, or the one its metadata names. ``class_names`` and ``templates`` are for zero-shot (see
    :func:`xmodal.evaluate.zero_shot.classes_of`); ``gallery`` is how many example queries to keep of each split.
    One set of shards becomes the split ``data``. Modes and random states are restored.

    ``captions`` is ``one`` text a sample, or ``all``: every line of it, or entry of a list in JSON. A folder in
    clip_benchmark's layout says what its classes are called, how to ask for them, and whether to take all captions;
    what is given here comes before that. Without templates a class is its name. ``label`` is the member that holds an
    integer or a name, or a path into a JSON one; ``query`` is another text, by which ``text-retrieval`` asks for the
    sample's text.

    ``train`` are the labelled shards that ``knn`` and ``probe`` learn from. ``bootstrap`` is how many resamples the
    95 % intervals are made of; 0 makes none. ``seed`` draws them, the probe's held-out part and the gallery.

    Raises :class:`EvaluationError` for what these models or data cannot be measured by.
    """
    check_tasks(tasks)
    if "zero-shot" in tasks and templates is not None:
        check_templates(templates)
    splits: Mapping[str, Shards | ShardSet] = data if isinstance(data, Mapping) else {"data": data}
    if not splits:
        raise EvaluationError("No split was given. Pass shards, or shards by the name of their split.")
    _check_numbers(knn_k=knn_k, knn_temperature=knn_temperature, bootstrap=bootstrap, seed=seed)
    reading = {"batch_size": batch_size, "num_workers": num_workers, "text": text, "label": label}
    training_set = None if train is None else TrainingSet(train, **reading)  # type: ignore[arg-type]
    for task in {"knn", "probe"} & set(tasks):
        need_training_set(training_set, task)
    space = open_space(student, teachers)
    if "text-retrieval" in tasks:
        check_models(space, ["text-retrieval"])
    main = space.side("image") if _sees_pictures(space, tasks) else space.side("text")
    texts = TextEmbeddings(batch_size)
    layouts = {name: _layout(name, shards, tasks) for name, shards in splits.items()}
    probes = Probes(training_set, seed)
    metrics: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    with untouched(space.student, *space.teachers.values()):
        for name, shards in splits.items():
            if training_set is not None and training_set.paths & paths_of(shards):
                logger.warning("Split %r is among the training shards of knn and probe: no figure of unseen data", name)
            layout = layouts[name]
            split = Split(
                name,
                shards,
                main,
                texts=texts,
                **reading,  # type: ignore[arg-type]
                query=query,
                all_captions=(captions or ("all" if layout and layout.task == "retrieval" else "one")) == "all",
            )
            measures: dict[str, Callable[[Split, Space], Figures]] = {
                "retrieval": retrieval,
                "text-retrieval": text_retrieval,
                "zero-shot": partial(
                    zero_shot,
                    class_names=class_names if class_names is not None or layout is None else layout.class_names,
                    templates=templates or (layout.templates if layout else None) or ("{}",),
                ),
                "knn": partial(knn, train=training_set, k=knn_k, temperature=knn_temperature),
                "probe": partial(probe, probes=probes),
                "agreement": agreement,
                "mixed-index": mixed_index,
            }
            found: dict[str, float] = {"num_samples": len(split.keys), "num_bad": split.num_bad}
            for task in tasks:
                found.update(settled(measures[task](split, space), resamples=bootstrap, seed=seed))
            metrics[name] = {
                entry: found[entry]
                for metric in METRICS
                for entry in (metric, f"{metric}_low", f"{metric}_high")
                if entry in found
            }
            if gallery and space.has("image") and space.has("text"):  # pictures found by sentences
                rows += gallery_rows(split, space, count=gallery, seed=seed)
    return Evaluation(metrics, rows)


def _layout(name: str, shards: object, tasks: Sequence[str]) -> ShardFolder | None:
    layout = layout_of(shards)
    one_label = [task for task in tasks if task in ("zero-shot", "knn", "probe")]
    if layout is not None and layout.task == "multilabel" and one_label:
        raise EvaluationError(
            f"Split {name!r} ({shards}) has several labels a picture (dataset_type.txt: multilabel), and "
            f"{one_label[0]} needs one. Leave it out, or choose another task."
        )
    return layout


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises :class:`EvaluationError` for a task that does not exist, or none at all."""
    if isinstance(tasks, str):
        raise EvaluationError(f"tasks is a list of names: [{tasks!r}], not {tasks!r}.")
    if not tasks:
        raise EvaluationError(f"No task was given. Known: {', '.join(TASKS)}")
    for task in tasks:
        if task not in TASKS:
            raise EvaluationError(f"{task!r} is not a task. {hint(task, TASKS)}")


def check_models(space: Space, tasks: Sequence[str]) -> None:
    """Raises :class:`EvaluationError` where a task needs pictures and texts that these models do not embed."""
    if "text-retrieval" in tasks and "text" not in space.student.modalities:
        raise EvaluationError(
            f"Task 'text-retrieval' measures how a student reads, and {space.student.name} reads no texts. "
            "Other tasks: retrieval, agreement, knn, probe."
        )
    for task in tasks:
        for modality in ("image", "text") if task in ("retrieval", "zero-shot") else ():
            try:
                space.side(modality)
            except EvaluationError as error:
                raise EvaluationError(f"Task {task!r}: {error} Other tasks: agreement, knn, probe.") from None


def _sees_pictures(space: Space, tasks: Sequence[str]) -> bool:
    if set(tasks) == {"text-retrieval"}:
        return False
    if "image" in space.student.modalities or set(tasks) & {"retrieval", "zero-shot"}:
        return True
    return bool(set(tasks) & {"agreement", "mixed-index"}) and "image" in space.teacher().modalities


def _check_numbers(*, knn_k: int, knn_temperature: float, bootstrap: int, seed: int) -> None:
    mistakes = {
        f"knn_k is {knn_k}; it counts neighbours and is at least 1": knn_k < 1,
        f"knn_temperature is {knn_temperature}; it divides cosines and is above 0": not knn_temperature > 0,
        f"bootstrap is {bootstrap}; it counts resamples and is at least 0, which makes no intervals": bootstrap < 0,
        f"seed is {seed}; it is at least 0": seed < 0,
    }
    wrong = [text for text, is_wrong in mistakes.items() if is_wrong]
    if wrong:
        raise EvaluationError("; ".join(wrong) + ".")


def _figure(metric: str, values: Mapping[str, float]) -> str:
    value = values.get(metric)
    if value is None:
        return "–"
    if metric.startswith("num_"):
        return str(int(value))
    if metric == "probe_c":
        return f"{value:.2g}"
    low, high = values.get(f"{metric}_low"), values.get(f"{metric}_high")
    return f"{value:.4f}" + ("" if low is None or high is None else f" [{low:.4f}, {high:.4f}]")
