"""The recipe: a teacher, a student, a stream and an objective, typed and frozen. YAML in, YAML out.

The models below are the whole schema of a recipe file. What stands beside ``name`` or ``loss`` are options of the
registered constructor or function; its signature is their schema (see :mod:`xmodal.recipes`).

>>> from xmodal.recipes import load_recipe
>>> recipe = load_recipe("emoji-text-to-image", ["train.learning_rate=2e-3"])
>>> recipe.train.learning_rate, recipe.student.name, recipe.student.options["weights"]
(0.002, 'image', 'imagenet')
"""

from __future__ import annotations

from typing import Any, Literal, Union

from pydantic import Field, ValidationInfo, field_validator, model_validator

from xmodal.plain import write_yaml
from xmodal.section import Section, Spec, as_dict
from xmodal.term import Term

__all__ = ["Augment", "Data", "Evaluate", "Recipe", "Section", "Source", "Spec", "Term", "Train", "as_dict"]

Shards = Union[str, list[str]]  # noqa: UP007  pydantic names the branches of this form
"""A path, a glob or a brace pattern, local, remote or ``package://``; or a list of them."""


class Augment(Section):
    """Random changes to a training picture, drawn from (seed, view, sample key); all off by default."""

    crop_scale: tuple[float, float] | None = Field(None, description="area of the crop, as a share of the picture")
    crop_ratio: tuple[float, float] = Field((0.75, 1.3333), description="width of the crop by its height")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a horizontal flip")
    rotation: float = Field(0.0, ge=0, le=180, description="largest angle, degrees, either way")
    color_jitter: float = Field(0.0, ge=0, le=1, description="strength for brightness, contrast and saturation")
    hue_jitter: float = Field(0.0, ge=0, le=0.5, description="largest turn of the hue, as a share of the circle")
    grayscale: float = Field(0.0, ge=0, le=1, description="probability of a picture without color")
    policy: Literal["randaugment", "trivialaugment"] | None = Field(
        None, description="further changes, drawn from a list: some of one strength, or one of any strength"
    )
    policy_changes: int = Field(2, ge=1, description="randaugment: how many changes")
    policy_magnitude: int = Field(9, ge=0, le=30, description="randaugment: strength of each, of 30")
    erase: float = Field(0.0, ge=0, le=1, description="probability that a rectangle is filled with noise")
    erase_scale: tuple[float, float] = Field((0.02, 0.33), description="area of it, as a share of the picture")
    mixup: float = Field(
        0.0, ge=0, description="blend with another picture of the batch: Beta(mixup, mixup) of it; 0 is off"
    )
    cutmix: float = Field(
        0.0, ge=0, description="paste a rectangle of another picture of the batch: Beta(cutmix, cutmix) of the area"
    )
    mix_share: float = Field(1.0, ge=0, le=1, description="share of the pictures that mixup or cutmix changes")
    audio_seconds: float | None = Field(
        None, gt=0, description="longest training sound; of a longer one a part is drawn"
    )
    time_masks: int = Field(0, ge=0, description="SpecAugment: stretches of time that are blanked in a spectrogram")
    time_mask: float = Field(0.1, gt=0, le=1, description="longest of them, as a share of the sound")
    frequency_masks: int = Field(0, ge=0, description="SpecAugment: bands that are blanked in a spectrogram")
    frequency_mask: float = Field(0.2, gt=0, le=1, description="widest of them, as a share of the bands")

    @field_validator("crop_scale", "crop_ratio", "erase_scale")
    @classmethod
    def _rising(cls, pair: tuple[float, float] | None, info: ValidationInfo) -> tuple[float, float] | None:
        largest = float("inf") if info.field_name == "crop_ratio" else 1.0
        if pair is not None and not 0 < pair[0] <= pair[1] <= largest:
            raise ValueError(f"give [smallest, largest], above 0{' and up to 1' if largest == 1 else ''}")
        return pair


class Source(Section):
    """One of several sources of training samples."""

    shards: Shards = Field(description="its shards")
    weight: float | None = Field(
        None, gt=0, description="its share of the stream, beside the others'; default: its number of samples"
    )
    text: str | None = Field(None, description="as data.text, where this source differs")
    fields: list[str] | None = Field(
        None,
        min_length=1,
        description="what all its samples have: image, audio, text, label, names of data.features; "
        "default: what the first one has",
    )


_TAKEN = {
    *("key", "shard", "view", "views", "present", "members", "features", "reinforced", "mix", "label_mix"),
    *("image", "audio", "text", "label", "logits", "spectrogram_masks"),
}
"""What samples and batches call other things, and no further text."""


class Data(Section):
    """The shards, what is read of them, and the order in which it comes."""

    train: Shards | dict[str, Shards | Source] = Field(description="shards to learn from, or several sources by name")
    mix: Literal["batches", "samples"] = Field(
        "batches", description="of several sources: each batch comes whole from one, or holds samples of all"
    )
    val: Shards | dict[str, Shards] | None = Field(None, description="shards to measure on, or several sets by name")
    text: str = Field(
        "txt",
        description="member that holds the text, or a dotted path into one: json.caption; of a list, one is picked",
    )
    label: str = Field("cls", description="member that holds the label, or a dotted path into one: json.label")
    features: dict[str, str] | None = Field(
        None,
        description="stored tensors of each sample, by the name that terms ask for (batch:NAME): emb.npy, "
        "emb.npz:pooled, emb.safetensors",
    )
    texts: dict[str, str] | None = Field(
        None,
        description="further texts of each sample by name, such as english: json.english; whoever reads texts reads "
        "them too, and english.embedding is a tap beside text.embedding",
    )
    image_size: int | None = Field(
        None, ge=8, description="side of the augmented training picture, and the student's input, pixels"
    )
    augment: Augment = Field(Augment(), description="random changes to training pictures")
    decoder: Literal["pil", "pil-draft", "simplejpeg", "simplejpeg-draft", "torchvision"] = Field(
        "simplejpeg", description="what decodes and resizes training pictures; decoders differ in pixels"
    )
    num_workers: int = Field(2, ge=0, description="processes that read and decode; the order does not depend on it")
    slots: int | None = Field(
        None, ge=1, description="default: the largest power of two up to 64 that divides the batch size"
    )
    block_size: int = Field(64, ge=1, description="samples that stay together on disk")
    window: int = Field(1024, ge=1, description="samples that are shuffled among one another")
    views: int | None = Field(
        None, ge=1, description="distinct augmentations of a sample; default: a new one every epoch"
    )
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of undecodable samples that stops the run")

    @field_validator("features")
    @classmethod
    def _free_names(cls, features: dict[str, str] | None) -> dict[str, str] | None:
        taken = sorted({"key", "text", "label", "views", "present"} & set(features or {}))
        if taken:
            raise ValueError(f"a batch has {', '.join(taken)} already; give the features another name")
        return features

    @field_validator("texts")
    @classmethod
    def _names_of_texts(cls, texts: dict[str, str] | None) -> dict[str, str] | None:
        taken = sorted(_TAKEN & set(texts or {}))
        if taken:
            raise ValueError(f"{', '.join(taken)} means something else already; give the text another name")
        wrong = [name for name in texts or {} if not name.isidentifier()]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no name of a text: letters, digits and _, no digit first")
        empty = [name for name, place in (texts or {}).items() if not place.strip()]
        if empty:
            raise ValueError(f"{empty[0]} names no member: give one, such as json.{empty[0]}")
        return texts

    @model_validator(mode="after")
    def _one_meaning(self) -> Data:
        twice = sorted(set(self.features or {}) & set(self.texts or {}))
        if twice:
            raise ValueError(f"{', '.join(twice)} is a name of data.features and of data.texts; give one another")
        return self

    @property
    def stored(self) -> dict[str, str]:
        """What ``features`` and ``texts`` name, together."""
        return {**(self.features or {}), **(self.texts or {})}


class Train(Section):
    """For how long, how fast, on what."""

    max_steps: int | None = Field(None, ge=1, description="length of the run; this or epochs")
    epochs: float | None = Field(None, gt=0, description="length of the run in passes over the data")
    batch_size: int = Field(256, ge=1, description="global: over all ranks and accumulated parts")
    accumulate: int = Field(1, ge=1, description="parts that a batch is split into")
    learning_rate: float = Field(1e-3, gt=0, description="its peak")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's")
    schedule: Literal["one_cycle", "cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls after its warmup"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    clip_grad: float | None = Field(1.0, gt=0, description="largest global gradient norm")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of the weights' moving average, which is then what is kept"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of autocast")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:1")
    compile: bool = Field(False, description="torch.compile the student")
    seed: int = Field(0, description="of weights, order and augmentation")
    checkpoint_every: int = Field(200, ge=1, description="steps")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest are kept")
    evaluate_every: int | None = Field(None, ge=1, description="steps; at the end always")
    term_gradients_every: int | None = Field(
        None, ge=1, description="steps; then each term's own gradient is measured, and how those of every two agree"
    )
    max_nonfinite: int = Field(
        5, ge=0, description="consecutive steps skipped for a non-finite loss or gradient before the run stops"
    )

    @field_validator("betas")
    @classmethod
    def _decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"each is at least 0 and below 1; given {list(betas)}")
        return betas

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give max_steps or epochs, one of the two")
        return self


class Evaluate(Section):
    """What is measured during training and at its end, on ``data.val``."""

    tasks: list[str] = Field(
        ["retrieval"], description="retrieval, text-retrieval, zero-shot, knn, probe, agreement, mixed-index"
    )
    text: str | None = Field(None, description="member that holds the text there; default: data.text")
    query: str | None = Field(
        None, description="for text-retrieval: another text of each sample, by which its text is asked for: json.name"
    )
    class_names: list[str] | None = Field(None, description="for zero-shot: the names, in the order of the labels")
    templates: list[str] = Field(["{}"], description="for zero-shot: sentences with {} for the name")
    label: str | None = Field(
        None, description="member that holds the label, an integer or a name: json.group; default: data.label"
    )
    train: Shards | None = Field(
        None, description="for knn and probe: labelled shards to learn from; default: those of data.train"
    )
    knn_k: int = Field(20, ge=1, description="for knn: how many neighbours vote")
    bootstrap: int = Field(0, ge=0, description="resamples for 95 % intervals, such as 1000; 0 is none")


class Recipe(Section):
    """A whole run: who teaches, who learns, from what, by which losses, for how long."""

    name: str = Field("", description="how tables and reports call the run; the file's name by default")
    description: str = Field("", description="one sentence for tables, reports and the model card")
    teacher: Spec | None = Field(None, description="who teaches")
    teachers: dict[str, Spec] | None = Field(None, description="several teachers by name, in place of one")
    student: Spec = Field(description="who learns")
    data: Data = Field(description="from what")
    objective: list[Term] = Field(min_length=1, description="by which losses: their weighted sum")
    scheme: str | Spec = Field(
        "offline", description="who learns from whom; offline: from teachers that stay as they are"
    )
    train: Train = Field(description="for how long, how fast, on what")
    evaluate: Evaluate = Field(Evaluate(), description="what is measured on data.val")
    baseline: str | None = Field(None, description="recipe whose measured figures stand beside this one's")
    stages: list[dict[str, Any]] | None = Field(None, description="overrides of anything above, run one after another")

    @model_validator(mode="after")
    def _one_teacher_key(self) -> Recipe:
        if self.teacher is not None and self.teachers is not None:
            raise ValueError("give teacher or teachers, not both")
        return self

    def probe_shards(self) -> Shards:
        """What knn and probe learn from: ``evaluate.train``, else all the shards of ``data.train``."""
        if self.evaluate.train is not None:
            return self.evaluate.train
        if not isinstance(self.data.train, dict):
            return self.data.train
        shards = [source.shards if isinstance(source, Source) else source for source in self.data.train.values()]
        return [one for entry in shards for one in ([entry] if isinstance(entry, str) else entry)]

    def all_teachers(self) -> dict[str, Spec]:
        """Teachers by name; the only one of a recipe is called ``teacher``."""
        return {"teacher": self.teacher} if self.teacher is not None else dict(self.teachers or {})

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, as plain values; null only where leaving it out would mean something else."""
        values: dict[str, Any] = as_dict(self)
        return values

    def to_yaml(self) -> str:
        """YAML that loads back as an equal recipe."""
        return write_yaml(self.to_dict())
