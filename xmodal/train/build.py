"""From a recipe to the objects that a run needs: models, stream, objective, scheme."""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.adapters import STUDENTS, create_student, create_teacher
from xmodal.adapters.encoder import Encoder
from xmodal.adapters.teachers.ema import AverageTeacher
from xmodal.data import StreamSource, TrainStream, open_sources
from xmodal.data.cache.recipe import open_cached
from xmodal.data.mixing import mixes
from xmodal.data.stream_sources import count_samples
from xmodal.errors import Mistake, RecipeError, RunError
from xmodal.objective import Objective
from xmodal.recipe import Recipe, Spec, Train
from xmodal.recipes.cached import is_cached, real_options
from xmodal.recipes.models import AVERAGE, GIVEN
from xmodal.schemes import SCHEMES, Scheme
from xmodal.train.batches import tensor_fields, to_device
from xmodal.train.coverage import headless, unlearnable, unmeasurable, unread, unserved
from xmodal.train.distributed import World

logger = logging.getLogger("xmodal")

_DRY_RUN_ROWS = 8


@dataclass
class Parts:
    """What one stage is made of. ``sample`` is each model's view of one sample, for measuring latencies."""

    student: Encoder
    teachers: dict[str, Encoder]
    sources: tuple[StreamSource, ...]
    objective: Objective
    num_steps: int
    sample: dict[str, dict[str, Tensor]]

    @property
    def num_samples(self) -> int:
        """Samples of the training data, over all sources."""
        return count_samples(self.sources)


def build_teachers(
    recipe: Recipe, given: Mapping[str, Encoder], sources: tuple[StreamSource, ...]
) -> dict[str, Encoder]:
    """The frozen teachers of a recipe; those in ``given`` are taken as they are.

    A cached one is not loaded: what it says of the samples of ``sources`` lies on the disk. The student's average is
    not among them: :func:`with_averages` makes it of the student.
    """
    teachers = {}
    for name, spec in recipe.all_teachers().items():
        if spec.name == AVERAGE:
            continue
        if is_cached(spec):  # also where it is given: another stage has other data
            teacher: Encoder = open_cached(recipe, name, sources)
        elif name in given:
            teacher = given[name]
        else:
            with torch.random.fork_rng(devices=[]):  # the student starts alike, whether its teachers are loaded or not
                teacher = create_teacher(_known(spec, name).name, **real_options(spec))
        teachers[name] = teacher.freeze()
    return teachers


def with_averages(recipe: Recipe, teachers: Mapping[str, Encoder], student: Encoder) -> dict[str, Encoder]:
    """All teachers of a recipe, in its order: ``teachers``, and moving averages that start as the student is now."""
    return {
        name: AverageTeacher(student, **spec.options) if spec.name == AVERAGE else teachers[name]
        for name, spec in recipe.all_teachers().items()
    }


def _known(spec: Spec, model: str) -> Spec:
    if spec.name == GIVEN:
        raise RunError(
            f"The {model} of this recipe was an object handed over in Python ({spec.options.get('type')}), which a "
            f"file cannot hold. Pass it again: distill(..., {model}=...)."
        )
    return spec


def student_options(recipe: Recipe, teachers: Mapping[str, Encoder]) -> dict[str, Any]:
    """The student's own options, and what follows from the rest of the recipe where it leaves them open.

    ``embed_dim`` is the width of the first teacher's embedding, ``image_size`` is ``data.image_size``.
    """
    options = _known(recipe.student, "student").options
    accepted = inspect.signature(STUDENTS[recipe.student.name]).parameters
    width = next((teacher.embed_dim for teacher in teachers.values() if teacher.embed_dim), None)
    for name, value in (("embed_dim", width), ("image_size", recipe.data.image_size)):
        if name in accepted and value is not None:
            options.setdefault(name, value)
    return options


def build_student(recipe: Recipe, teachers: Mapping[str, Encoder], given: Mapping[str, Encoder]) -> Encoder:
    """The student of a recipe, or the one in ``given``."""
    if "student" in given:
        return copy.deepcopy(given["student"])  # the user's own object stays as it was handed over
    return create_student(recipe.student.name, **student_options(recipe, teachers))


def build_parts(
    recipe: Recipe,
    given: Mapping[str, Encoder],
    before: tuple[Encoder, Objective] | None = None,
    world: World | None = None,
) -> Parts:
    """Everything of one stage, checked by a dry run on one real batch.

    ``before`` is the student and the objective of the stage before, whose weights this one's start from. Raises
    :class:`RecipeError` with all that the dry run found.
    """
    sources = open_sources(recipe.data.train, recipe.data.text, label=recipe.data.label, stored=recipe.data.stored)
    num_steps = count_steps(recipe.train, count_samples(sources))
    teachers = build_teachers(recipe, given, sources)
    student = build_student(recipe, teachers, given)
    for model in (student, *teachers.values()):
        model.read_texts(tuple(recipe.data.texts or ()))
    if before is not None and inherit(student, before[0]) == 0:
        raise RecipeError([Mistake("stages", "the student of this stage shares no tensor with the one before it.")])
    teachers = with_averages(recipe, teachers, student)
    device = world.device if world is not None else None
    models = {"student": student, **teachers}
    if device is not None:
        for model in models.values():
            model.to(device)
    few = build_stream(recipe, models, sources, num_workers=0).probe(_DRY_RUN_ROWS)
    if device is not None:
        few = to_device(few, device)
    objective = Objective.build(
        recipe.objective, models, few["views"], fields=tensor_fields(few), seed=recipe.train.seed
    )
    mistakes = [
        *unread(recipe, models),
        *headless(student, before),
        *unserved(objective, models, sources),
        *unlearnable(objective, student),
        *unmeasurable(recipe, student, teachers),
    ]
    if mixes(recipe.data.augment) and "label" in objective.fields():
        said = "mixup and cutmix blend pictures, and batch:label is the label of one of them. Leave out either"
        mistakes.append(Mistake("data.augment", said))
    if mistakes:
        raise RecipeError(mistakes, recipe.name, "nothing was trained")
    if before is not None:
        inherit(objective, before[1])
    sample = {name: {key: tensor[:1] for key, tensor in view.items()} for name, view in few["views"].items()}
    return Parts(student, teachers, sources, objective, num_steps, sample)


def build_stream(
    recipe: Recipe,
    models: Mapping[str, Encoder],
    sources: tuple[StreamSource, ...],
    *,
    num_workers: int,
    world: World | None = None,
    bad_samples: Path | None = None,
) -> TrainStream:
    """The training stream of a recipe, preprocessed for each model; ``world`` says which part is this rank's."""
    data = recipe.data
    return TrainStream(
        sources,
        preprocess={name: model.viewing for name, model in models.items()},
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        mix=data.mix,
        label=data.label,
        features=data.features,
        texts=data.texts,
        image_size=data.image_size,
        augment=data.augment,
        decoder=data.decoder,
        num_workers=num_workers,
        slots=data.slots,
        block_size=data.block_size,
        window=data.window,
        views=data.views,
        max_bad_fraction=data.max_bad_fraction,
        rank=world.rank if world else 0,
        world_size=world.size if world else 1,
        bad_samples=bad_samples,
    )


def build_scheme(recipe: Recipe, parts: Parts, world: World) -> Scheme:
    """The recipe's scheme, ready for its first step."""
    spec = recipe.scheme if isinstance(recipe.scheme, Spec) else Spec(name=recipe.scheme)
    make = SCHEMES[spec.name]
    averages = [name for name, teacher in parts.teachers.items() if isinstance(teacher, AverageTeacher)]
    if averages and not make.keeps_averages:
        raise RunError(
            f"Teacher {averages[0]!r} is the student's moving average, which scheme {spec.name!r} does not keep: it "
            "would stay as it began. Take scheme: offline."
        )
    return make(parts.student, parts.teachers, parts.objective, recipe.train, world, **spec.options)  # type: ignore[call-arg]


def count_steps(train: Train, num_samples: int) -> int:
    """Steps of a run: ``max_steps``, or what ``epochs`` over the samples come to, rounded up.

    >>> count_steps(Train(epochs=2, batch_size=64), 100)
    4
    """
    if train.max_steps is not None:
        return train.max_steps
    assert train.epochs is not None  # the recipe has one of the two
    return max(1, math.ceil(train.epochs * num_samples / train.batch_size))


def inherit(module: nn.Module, before: nn.Module) -> int:
    """Copy every tensor of ``before`` whose name and shape ``module`` has; returns how many there were."""
    wanted = module.state_dict()
    kept = {k: v for k, v in before.state_dict().items() if k in wanted and wanted[k].shape == v.shape}
    module.load_state_dict({**wanted, **kept})
    logger.info("%s: %d of %d tensors come from the stage before", type(module).__name__, len(kept), len(wanted))
    return len(kept)
