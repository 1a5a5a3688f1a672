"""A case for every adapter and every kind of model that it reads. To add one, append it to ``CASES``.

A case says how its model is made (``options``, for ``create_teacher`` or ``create_student``) and what its library makes
of the same samples (``own``). A column that cannot hold gets a reason, by its name in :mod:`page`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

import xmodal
from tests.adapters.table import checks, models
from tests.adapters.table.library import (
    Own,
    Samples,
    by_open_clip,
    by_sentence_transformers,
    by_timm,
    by_transformers,
    pooled_by_timm,
    without_xmodal,
)
from tests.adapters.table.workshop import MINILM, NAMES, SIZE, Workshop
from xmodal.adapters import Encoder, create_student, create_teacher
from xmodal.adapters.teachers.ema import AverageTeacher

Cells = dict[str, str]
Options = dict[str, Any]


@dataclass(frozen=True)
class Teacher:
    """A teacher of the registry; ``own`` is its library's call on the same files."""

    adapter: str
    model: str
    options: Callable[[Workshop], Options]
    own: Callable[[Workshop], Own]
    trained: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    role = "teacher"

    @property
    def name(self) -> str:
        return f"`{self.adapter}`"

    def load(self, workshop: Workshop) -> Encoder:
        return create_teacher(self.adapter, **self.options(workshop))

    def inputs(self, workshop: Workshop, encoder: Encoder) -> Mapping[str, Tensor]:
        return view(encoder, workshop.samples)

    def teach(self, workshop: Workshop, encoder: Encoder) -> str:
        return checks.teaches(encoder, workshop)

    def check(self, workshop: Workshop) -> Cells:
        encoder = self.load(workshop)
        inputs = self.inputs(workshop, encoder)
        cells = {"loads": checks.loads(encoder, self.adapter, frozen=True)}
        if "preprocessing" not in self.reasons:
            with without_xmodal():
                own = self.own(workshop)
            cells["preprocessing"] = checks.preprocesses(inputs, own)
            if "reloads" not in self.reasons:
                cells["reloads"] = checks.agrees(encoder, inputs, own)
        cells["taps"] = checks.gives_taps(encoder, inputs)
        cells["teaches"] = self.teach(workshop, encoder)
        return {**cells, "learns": "teacher", "exports": "teacher", **self.reasons}


@dataclass(frozen=True)
class Student:
    """A student of the registry; ``own`` is its library's call on the folder that it was saved to.

    ``files`` are the files of that folder that its library reads. ``still`` are parameters that the embeddings do not
    depend on, ``folded`` those that saving multiplies into others.
    """

    adapter: str
    model: str
    options: Callable[[Workshop], Options]
    own: Callable[[Path, Samples], Own]
    files: tuple[str, ...]
    trained: bool = False
    still: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    role = "student"

    @property
    def name(self) -> str:
        return f"`{self.adapter}`"

    def load(self, workshop: Workshop) -> Encoder:
        torch.manual_seed(0)
        return create_student(self.adapter, **self.options(workshop))

    def reload(self, folder: Path) -> Encoder:
        return xmodal.load_student(folder)

    def as_teacher(self, folder: Path) -> Encoder:
        return create_teacher("trained", folder=str(folder))

    def check(self, workshop: Workshop) -> Cells:
        encoder = self.load(workshop)
        cells = {"loads": checks.loads(encoder, self.adapter, frozen=False)}
        run = workshop.distill(workshop.master, encoder, encoder.modalities)
        trained = self.reload(run.folder / "student")
        cells["learns"] = checks.learns(run, encoder, trained, self.still, self.folded)
        folder = workshop.fresh()
        cells["exports"] = checks.exports(trained, folder, self.files)
        inputs = view(trained, workshop.samples)
        with without_xmodal():
            own = self.own(folder, workshop.samples)
        cells["preprocessing"] = checks.preprocesses(inputs, own)
        cells["reloads"] = checks.agrees(trained, inputs, own)
        cells["taps"] = checks.gives_taps(trained, inputs)
        cells["teaches"] = checks.teaches(self.as_teacher(folder), workshop)
        return cells


def view(encoder: Encoder, samples: Samples) -> Mapping[str, Tensor]:
    return encoder.preprocess.collate([encoder.preprocess(row) for row in samples.rows()])


# Teachers that are made otherwise, or see other samples.


@dataclass(frozen=True)
class ModuleTeacher(Teacher):
    """A user's own module; ``options`` are unused."""

    name = "`wrap_module`"

    def load(self, workshop: Workshop) -> Encoder:
        return models.wrapped(0).freeze()


@dataclass(frozen=True)
class ReinforcedTeacher(Teacher):
    """Knows the samples of reinforced shards only."""

    def inputs(self, workshop: Workshop, encoder: Encoder) -> Mapping[str, Tensor]:
        rows = [row for row, _ in models.stored(workshop.reinforced)]
        return encoder.preprocess.collate([encoder.preprocess(row) for row in rows])

    def teach(self, workshop: Workshop, encoder: Encoder) -> str:
        return checks.teaches(encoder, workshop, data=str(workshop.reinforced))


@dataclass(frozen=True)
class CachedTeacher(Teacher):
    """Is said in a recipe, where the samples are known too."""

    name = "`cached: true`"

    def load(self, workshop: Workshop) -> Encoder:
        return models.cached(workshop, self.options(workshop)).freeze()

    def inputs(self, workshop: Workshop, encoder: Encoder) -> Mapping[str, Tensor]:
        return models.first_view(encoder)

    def teach(self, workshop: Workshop, encoder: Encoder) -> str:
        before = models.contents(workshop.root / "cache")
        run = workshop.distill(encoder.spec, workshop.pupil, encoder.modalities)
        assert before
        assert models.contents(workshop.root / "cache") == before
        return checks.has_learnt(run, workshop, len(encoder.modalities))


@dataclass(frozen=True)
class AverageOfStudent(Teacher):
    """Exists in a run, and is another model after each step."""

    def load(self, workshop: Workshop) -> Encoder:
        return AverageTeacher(workshop.pupil)

    def teach(self, workshop: Workshop, encoder: Encoder) -> str:
        run = workshop.distill(encoder.spec, workshop.pupil, encoder.modalities)
        return checks.has_learnt(run, workshop, len(encoder.modalities))


@dataclass(frozen=True)
class ModuleStudent(Student):
    """A user's own module; ``options`` are unused."""

    name = "`wrap_module`"

    def load(self, workshop: Workshop) -> Encoder:
        return models.wrapped(1).train()

    def reload(self, folder: Path) -> Encoder:
        return xmodal.load_student(folder, module=models.wrapped(2))

    def as_teacher(self, folder: Path) -> Encoder:
        return self.reload(folder).freeze()


def open_clip_teacher(kind: str, model: str) -> Teacher:
    return Teacher(
        "open_clip",
        model,
        lambda workshop: {"model": f"local-dir:{workshop.open_clip(kind)}"},
        lambda workshop: by_open_clip(workshop.open_clip(kind), workshop.samples),
    )


def transformers_teacher(kind: str, model: str) -> Teacher:
    return Teacher(
        "transformers",
        model,
        lambda workshop: {"model": str(workshop.transformers(kind))},
        lambda workshop: by_transformers(workshop.transformers(kind), workshop.samples, kind),
    )


def timm_teacher(name: str, model: str) -> Teacher:
    return Teacher(
        "timm",
        model,
        lambda workshop: {"model": f"local-dir:{workshop.timm(name)}"},
        lambda workshop: pooled_by_timm(
            timm.create_model(f"local-dir:{workshop.timm(name)}", pretrained=True).eval(), workshop.samples
        ),
    )


def sentence_teacher(make: Callable[[Workshop], Path], model: str) -> Teacher:
    return Teacher(
        "sentence",
        model,
        lambda workshop: {"model": str(make(workshop))},
        lambda workshop: by_sentence_transformers(make(workshop), workshop.samples),
    )


def image_student(name: str, model: str, size: int = SIZE, weights: str = "random") -> Student:
    options = {"model": name, "weights": weights, "embed_dim": 12, "image_size": size}
    return Student(
        "image", model, lambda workshop: options, by_timm, ("config.json", "model.safetensors"), weights != "random"
    )


def text_student(called: str, files: tuple[str, ...] = (), trained: bool = False, **options: Any) -> Student:
    own = ("modules.json", "config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json")
    return Student("text", called, lambda workshop: options, by_sentence_transformers, (*own, *files), trained)


def static_student(called: str, trained: bool = False, **options: Any) -> Student:
    own = ("modules.json", "tokenizer.json", "model.safetensors")
    return Student(
        "static", called, lambda workshop: options, by_sentence_transformers, own, trained, folded=("model.weights",)
    )


def open_clip_student(model: str, make: Callable[[Workshop], Options]) -> Student:
    files = ("open_clip_config.json", "open_clip_model.safetensors")
    return Student("open_clip", model, make, by_open_clip, files, still=("model.logit_scale",))


def _towers(folder: Path, samples: Samples) -> Own:
    one, other = by_timm(folder / "image", samples), by_sentence_transformers(folder / "text", samples)
    return Own({**one.inputs, **other.inputs}, {**one.embeddings, **other.embeddings})


def _restored(folder: Path, samples: Samples) -> Own:
    network = models.network(3)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return models.by_hand(network, samples)


_DENSE = ("2_Dense/config.json", "2_Dense/model.safetensors")
_SMALL_TEXT: Options = {"num_layers": 2, "width": 32, "num_heads": 4, "max_length": 24}

TEACHERS: list[Teacher] = [
    open_clip_teacher("vit", "CLIP, ViT"),
    open_clip_teacher("resnet", "CLIP, ResNet"),
    open_clip_teacher("timm", "CLIP, a timm network for pictures"),
    open_clip_teacher("bert", "CLIP, a transformers model for texts"),
    open_clip_teacher("siglip", "SigLIP"),
    open_clip_teacher("coca", "CoCa"),
    transformers_teacher("clip", "CLIP"),
    transformers_teacher("clip-image", "CLIP's image tower"),
    transformers_teacher("clip-text", "CLIP's text tower"),
    transformers_teacher("siglip", "SigLIP"),
    transformers_teacher("siglip2", "SigLIP2"),
    transformers_teacher("vit", "ViT"),
    transformers_teacher("vit-classifier", "ViT with a classifier"),
    transformers_teacher("dinov2", "DINOv2"),
    transformers_teacher("dinov2-registers", "DINOv2 with registers"),
    transformers_teacher("dinov3", "DINOv3"),
    Teacher(
        "transformers",
        "BERT: all-MiniLM-L6-v2",
        lambda workshop: {"model": MINILM},
        lambda workshop: by_transformers(workshop.minilm, workshop.samples, ""),
        trained=True,
    ),
    transformers_teacher("bert", "BERT"),
    transformers_teacher("roberta", "RoBERTa"),
    transformers_teacher("xlm-roberta", "XLM-RoBERTa"),
    transformers_teacher("distilbert", "DistilBERT"),
    transformers_teacher("mpnet", "MPNet"),
    transformers_teacher("electra", "ELECTRA"),
    transformers_teacher("deberta", "DeBERTa"),
    transformers_teacher("deberta-v2", "DeBERTa-v2 and v3"),
    Teacher(
        "timm",
        "EfficientNet-Lite0",
        lambda workshop: {"model": "tf_efficientnet_lite0"},
        lambda workshop: pooled_by_timm(models.lite0(), workshop.samples),
        trained=True,
    ),
    timm_teacher("test_vit", "ViT"),
    timm_teacher("test_resnet", "ResNet"),
    Teacher(
        "sentence",
        "all-MiniLM-L6-v2",
        lambda workshop: {"model": MINILM},
        lambda workshop: by_sentence_transformers(workshop.minilm, workshop.samples),
        trained=True,
    ),
    sentence_teacher(models.chain, "BERT, two poolings, dense layer"),
    sentence_teacher(models.table, "table of tokens (StaticEmbedding)"),
    sentence_teacher(models.model2vec_table, "table of tokens as model2vec has it"),
    Teacher("ensemble", "two timm networks, concatenated", models.members, models.by_members),
    Teacher(
        "trained",
        "a student of xmodal's, two towers",
        lambda workshop: {"folder": str(workshop.pupil_folder)},
        lambda workshop: _towers(workshop.pupil_folder, workshop.samples),
    ),
    AverageOfStudent(
        "ema",
        "a student's moving average, two towers",
        lambda workshop: {},
        lambda workshop: _towers(workshop.pupil_folder, workshop.samples),
    ),
    CachedTeacher(
        "timm",
        "a ResNet of timm's",
        models.cached_options,
        lambda workshop: Own({}, {}),
        reasons={"preprocessing": "cache", "reloads": "cache"},
    ),
    ReinforcedTeacher(
        "reinforced",
        "stored embeddings of two teachers",
        lambda workshop: {"width": 16, "teachers": 2, "normalize": False},
        lambda workshop: models.by_numpy(workshop.reinforced),
        reasons={"reloads": "stored"},
    ),
    ModuleTeacher(
        "",
        "a ResNet of torchvision's, taps by path",
        lambda workshop: {},
        lambda workshop: models.by_hand(models.network(0), workshop.samples),
    ),
]
STUDENTS: list[Student] = [
    image_student("tf_efficientnet_lite0", "EfficientNet-Lite0", weights="imagenet"),
    image_student("test_efficientnet", "EfficientNet"),
    image_student("test_vit", "ViT"),
    text_student("BERT from a config", _DENSE, **_SMALL_TEXT, embed_dim=12),
    text_student("two layers of all-MiniLM-L6-v2", trained=True, model=MINILM, num_layers=2, max_length=24),
    text_student(
        "a layer of all-MiniLM-L6-v2, its tokenizer trimmed",
        _DENSE,
        trained=True,
        model=MINILM,
        num_layers=1,
        texts=NAMES,
        vocab_size=300,
        embed_dim=12,
    ),
    static_student("random table of tokens", width=16, embed_dim=12, texts=NAMES),
    static_student(
        "all-MiniLM-L6-v2's tokens in 16 components", trained=True, model=MINILM, width=16, texts=NAMES, vocab_size=300
    ),
    Student(
        "clip",
        "EfficientNet and BERT",
        lambda workshop: {
            "image": {"model": "test_efficientnet", "weights": "random", "image_size": SIZE},
            "text": _SMALL_TEXT,
            "embed_dim": 12,
        },
        _towers,
        ("image/config.json", "image/model.safetensors", "text/modules.json", "text/model.safetensors", "xmodal.json"),
    ),
    open_clip_student("CLIP from a config", lambda workshop: {"model": models.TINY_CLIP}),
    open_clip_student("CLIP from a config, a timm network for pictures", lambda workshop: {"model": models.TIMM_CLIP}),
    open_clip_student("CLIP, weights inherited from a bigger one", models.inheriting),
    ModuleStudent(
        "",
        "a ResNet of torchvision's",
        lambda workshop: {},
        _restored,
        ("config.json", "model.safetensors"),
        still=("model.fc.weight", "model.fc.bias"),
    ),
]
CASES: list[Teacher | Student] = [*TEACHERS, *STUDENTS]
