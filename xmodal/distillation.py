"""One call from a recipe to a run folder with an ordinary checkpoint, its figures and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import xmodal
from xmodal.adapters.encoder import Encoder
from xmodal.adapters.identity import reading_identity
from xmodal.adapters.teachers.ema import without_averages
from xmodal.data import TrainStream
from xmodal.errors import Interrupted, RecipeError, RunError
from xmodal.evaluate import Evaluation, evaluate
from xmodal.export import load_student, save_student, write_card
from xmodal.export.loading import load_line
from xmodal.files import write_json
from xmodal.objective import Objective
from xmodal.recipe import Recipe, Shards, Spec
from xmodal.recipes import check, load_recipe, stages
from xmodal.recipes.cached import without_cache
from xmodal.recipes.measured import measured_figures
from xmodal.recipes.models import AVERAGE, GIVEN
from xmodal.report import write_report
from xmodal.schemes import Scheme
from xmodal.train.batches import to_device
from xmodal.train.build import Parts, build_parts, build_scheme, build_stream
from xmodal.train.checkpoint import load_checkpoint
from xmodal.train.distributed import World, joined
from xmodal.train.environment import describe_environment
from xmodal.train.folder import RunFolder
from xmodal.train.log import is_full, log_to
from xmodal.train.loop import Loop, Metrics, Stage
from xmodal.train.measure import describe_model
from xmodal.train.outcome import print_outcome, print_plan, print_title
from xmodal.train.progress import Meter
from xmodal.train.space import embedding_space

_GALLERY_QUERIES = 12

Model = str | Mapping[str, Any] | Spec | Encoder


@dataclass(frozen=True)
class Run:
    """What a finished run left: its folder, and the figures of its evaluation, split → metric → value."""

    folder: Path
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def student(self) -> Encoder:
        """The trained student, loaded from its native checkpoint."""
        return load_student(self.folder / "student")

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def distill(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    resume: bool = False,
    teacher: Model | None = None,
    teachers: Mapping[str, Model] | None = None,
    student: Model | None = None,
    data: Shards | Mapping[str, Any] | None = None,
    objective: Sequence[Mapping[str, Any]] | None = None,
    train: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Run:
    """Train a student by a recipe; everything that comes of it lies in the folder ``out``.

    ``recipe`` is a recipe's name, a YAML path, a mapping or a :class:`~xmodal.Recipe`; the sections given beside it
    replace its own, or make up the recipe where there is none. A model is a name, a mapping of name and options, or
    an :class:`~xmodal.adapters.encoder.Encoder`. ``overrides`` are ``"train.seed=1"`` strings. With ``resume``, a run
    that was interrupted goes on exactly where its last checkpoint stands, and a finished one is returned as it is.

    Raises :class:`~xmodal.errors.RecipeError` with all mistakes at once before anything is loaded or written,
    :class:`~xmodal.errors.RunError` for a folder that cannot be used or a training that does not stay finite, and
    :class:`~xmodal.errors.Interrupted` where the user stopped it.
    """
    console = console or Console()
    resolved, given = _resolve(recipe, overrides, teacher, teachers, student, data, objective, train)
    folder = RunFolder(out)
    try:
        with joined(resolved.train.device) as world, folder.in_use() if world.is_main else nullcontext():
            if resume:
                folder.reopen(resolved)
                if folder.is_finished:
                    if world.is_main:
                        console.print(f"{folder.path} is finished: nothing to resume.", highlight=False)
                    return finished_run(folder)
            elif world.is_main:
                folder.create(resolved)
            world.barrier()
            with log_to(folder.log):
                return _Distillation(resolved, given, folder, world, console).run(resume)
    except Interrupted as stopped:
        raise Interrupted(f"{stopped} Go on with the same command and --resume (out: {folder.path}).") from None
    except OSError as error:
        if not is_full(error):
            raise
        raise RunError(
            f"{folder.path} cannot be written: {error.strerror}. What is in it is whole: free some space and go on "
            "with the same command and --resume."
        ) from error


def dry_run(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = (), console: Console | None = None
) -> None:
    """Load everything, try the objective on one real batch, print what would be trained; write nothing."""
    resolved, given = _resolve(recipe, overrides)
    for stage in stages(resolved):
        with joined(stage.train.device) as world:
            print_plan(console or Console(), stage, build_parts(stage, given, world=world))


def finished_run(folder: RunFolder) -> Run:
    """What :func:`distill` returns, read from the folder of a run that is over."""
    return Run(folder.path, json.loads(folder.summary.read_text(encoding="utf-8"))["metrics"])


class _Distillation:
    """The stages of one run, from the first to the summary."""

    def __init__(
        self, recipe: Recipe, given: dict[str, Encoder], folder: RunFolder, world: World, console: Console
    ) -> None:
        self.recipe, self.given, self.folder, self.world = recipe, given, folder, world
        self.console = console if world.is_main else Console(quiet=True)
        self.stages = stages(recipe)

    def run(self, resume: bool) -> Run:
        at = self.folder.latest() if resume else None
        if self.world.is_main:
            write_json(self.folder.environment, describe_environment(self.world))
        before: tuple[Encoder, Objective] | None = None
        meter = Meter()
        for number, recipe in enumerate(self.stages):
            if at is not None and number < at.stage:
                continue
            torch.manual_seed(recipe.train.seed)
            parts = build_parts(recipe, self.given, before, self.world)
            if before is not None:
                parts.objective.measure_anew(before[1], self._same_teachers(number - 1))
            if number == (at.stage if at else 0):
                print_title(self.console, self.recipe, recipe, parts)
            scheme = build_scheme(recipe, parts, self.world)
            stage = self._stage(number, recipe, parts, scheme, meter)
            if at is not None and number == at.stage:
                stage.load_state_dict(load_checkpoint(self.folder.checkpoints, at))
                stage.done = at.step
                self.console.print(f"resumed at step {at.step} of {stage.num_steps}", highlight=False)
            else:
                scheme.prepare(to_device(batch, self.world.device) for batch in self._stream(recipe, parts))
            loop = Loop(self.folder, self.world, self.console, partial(self._metrics, recipe, parts), len(self.stages))
            loop.run(stage)
            before, meter = (next(iter(scheme.students.values())), parts.objective), stage.meter
            if len(self.stages) > 1:  # teachers that stay the same are not loaded again
                self._keep_teachers(number, parts)
        meter.bad_samples = self.world.total(meter.bad_samples)
        if self.world.is_main:
            self._finish(recipe, parts, stage)
        self.world.barrier()
        return finished_run(self.folder)

    def _stage(self, number: int, recipe: Recipe, parts: Parts, scheme: Scheme, meter: Meter) -> Stage:
        stream = self._stream(recipe, parts, self.folder.bad_samples)
        models = {"student": reading_identity(parts.student)}
        models |= {name: each.identity() for name, each in without_averages(parts.teachers).items()}
        return Stage(number, scheme, stream, recipe.train, parts.num_steps, meter=meter, models=models)

    def _stream(self, recipe: Recipe, parts: Parts, bad_samples: Path | None = None) -> TrainStream:
        return build_stream(
            recipe,
            {"student": parts.student, **parts.teachers},
            parts.sources,
            num_workers=recipe.data.num_workers,
            world=self.world,
            bad_samples=bad_samples,
        )

    def _keep_teachers(self, number: int, parts: Parts) -> None:
        for name in self._same_teachers(number):
            self.given[name] = parts.teachers[name]

    def _same_teachers(self, number: int) -> list[str]:
        """Teachers of a stage that the one behind it has too; the average of its student is another one."""
        here, following = self.stages[number].all_teachers(), self.stages[number + 1 : number + 2]
        there = following[0].all_teachers() if following else {}
        return [name for name, spec in there.items() if here.get(name) == spec and spec.name != AVERAGE]

    def _evaluate(self, recipe: Recipe, parts: Parts, scheme: Scheme, gallery: int = 0) -> Evaluation | None:
        if recipe.data.val is None:
            return None
        splits = recipe.data.val if isinstance(recipe.data.val, dict) else {"val": recipe.data.val}
        student = next(iter(scheme.students.values()))
        student.metadata = self._metadata(recipe, parts)
        return evaluate(
            student,
            splits,
            tasks=recipe.evaluate.tasks,
            teachers=without_averages(parts.teachers),
            class_names=recipe.evaluate.class_names,
            templates=None if recipe.evaluate.templates == ["{}"] else recipe.evaluate.templates,  # the data's own
            num_workers=recipe.data.num_workers,
            text=recipe.evaluate.text or recipe.data.text,
            label=recipe.evaluate.label or recipe.data.label,
            train=recipe.probe_shards() if {"knn", "probe"} & set(recipe.evaluate.tasks) else None,
            query=recipe.evaluate.query,
            knn_k=recipe.evaluate.knn_k,
            bootstrap=recipe.evaluate.bootstrap,
            gallery=gallery,
        )

    def _metrics(self, recipe: Recipe, parts: Parts, scheme: Scheme) -> Metrics:
        evaluation = self._evaluate(recipe, parts, scheme)
        return evaluation.metrics if evaluation else {}

    def _metadata(self, recipe: Recipe, parts: Parts) -> dict[str, Any]:
        space = embedding_space(recipe)
        return {
            "xmodal_version": xmodal.__version__,
            "recipe": self.recipe.to_dict(),
            "teachers": {name: without_cache(spec) for name, spec in recipe.all_teachers().items()},
            "space": None if space is None else {**space, "dim": parts.student.embed_dim},
            "steps": parts.num_steps,
            "licence": None,
        }

    def _finish(self, recipe: Recipe, parts: Parts, stage: Stage) -> None:
        student = next(iter(stage.scheme.students.values()))
        save_student(student, self.folder.student, self._metadata(recipe, parts))  # first of all: measuring may fail
        evaluation = self._evaluate(recipe, parts, stage.scheme, gallery=_GALLERY_QUERIES)
        metrics = evaluation.metrics if evaluation else {}
        baseline = measured_figures(self.recipe.baseline) if self.recipe.baseline else {}
        means = {split: {name: figure["mean"] for name, figure in entry.items()} for split, entry in baseline.items()}
        write_card(self.folder.student, metrics=metrics, baseline=means)
        write_json(self.folder.evaluation, metrics)
        write_json(self.folder.gallery, evaluation.gallery if evaluation else [])
        meter = stage.meter
        summary = {
            "recipe": self.recipe.name,
            "description": self.recipe.description,
            "teachers": {n: describe_model(teacher, parts.sample[n]) for n, teacher in parts.teachers.items()},
            "student": {
                **describe_model(student, parts.sample["student"]),
                "load": load_line(self.folder.student),
            },
            "training": {
                "steps": meter.steps,
                "samples": meter.samples,
                "seconds": round(meter.seconds, 2),
                "samples_per_second": round(meter.samples_per_second, 2),
                "data_wait": round(meter.data_wait, 4),
                "skipped_steps": meter.skipped_steps,
                "bad_samples": meter.bad_samples,
            },
            "data": recipe.data.model_dump(mode="json", include={"train", "val"}),
            "metrics": metrics,
            "baseline": {"recipe": self.recipe.baseline, "metrics": baseline} if baseline else None,
        }
        write_json(self.folder.summary, summary)
        write_report(self.folder.path)
        print_outcome(self.console, self.folder, summary)


def _resolve(
    recipe: str | Path | Mapping[str, Any] | Recipe | None,
    overrides: Sequence[str] = (),
    teacher: Model | None = None,
    teachers: Mapping[str, Model] | None = None,
    student: Model | None = None,
    data: Shards | Mapping[str, Any] | None = None,
    objective: Sequence[Mapping[str, Any]] | None = None,
    train: Mapping[str, Any] | None = None,
) -> tuple[Recipe, dict[str, Encoder]]:
    """The whole recipe, checked, and the models that were handed over as objects."""
    given = {
        name: model
        for name, model in {"teacher": teacher, "student": student, **(teachers or {})}.items()
        if isinstance(model, Encoder)
    }
    sections: dict[str, Any] = {}
    if teacher is not None:
        sections["teacher"] = _spec(teacher)
    if teachers is not None:
        sections["teachers"] = {name: _spec(model) for name, model in teachers.items()}
    if student is not None:
        sections["student"] = _spec(student)
    if data is not None:
        sections["data"] = dict(data) if isinstance(data, Mapping) else {"train": data}
    if objective is not None:
        sections["objective"] = [dict(term) for term in objective]
    if train is not None:
        sections["train"] = dict(train)
    if recipe is None and not sections:
        raise RunError("distill needs a recipe, or teacher=, student=, data=, objective= and train=.")
    if recipe is not None and sections:
        sections = {**load_recipe(recipe).to_dict(), **sections}
    source = sections or recipe
    assert source is not None  # one of the two was given
    resolved = load_recipe(source, overrides)
    mistakes = check(resolved)
    if mistakes:
        raise RecipeError(mistakes, f"recipe {recipe}" if isinstance(recipe, str | Path) else "recipe")
    return resolved, given


def _spec(model: Model) -> dict[str, Any]:
    if isinstance(model, Encoder) and model.frozen and model.made_as == "teacher":
        return dict(model.spec)
    if isinstance(model, Encoder):
        return {"name": GIVEN, "type": type(model).__qualname__, "identity": model.identity()}
    if isinstance(model, Spec):
        return model.model_dump(mode="json")
    return {"name": model} if isinstance(model, str) else dict(model)
