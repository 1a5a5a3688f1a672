"""Two towers, a timm network and a small BERT, into one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.identity import digest
from xmodal.adapters.preprocess import JoinedPreprocess
from xmodal.adapters.registration import STUDENTS, option_problems
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.static_encoder import StaticEncoder
from xmodal.adapters.students.image import ImageStudent
from xmodal.adapters.students.image import image as make_image
from xmodal.adapters.students.text import text as make_text
from xmodal.errors import AdapterError


class ClipStudent(Encoder):
    """An image and a text encoder whose embeddings have one width; the taps of both. A tower runs only if asked."""

    modalities = ("image", "text")
    preprocess: JoinedPreprocess

    def __init__(self, name: str, image: ImageStudent, text: SentenceEncoder | StaticEncoder) -> None:
        super().__init__()
        if image.embed_dim != text.embed_dim:
            raise AdapterError(f"The towers of {name} embed into {image.embed_dim} and {text.embed_dim} dimensions.")
        self.name, self.image, self.text = name, image, text
        self.embed_dim = image.embed_dim
        self.preprocess = JoinedPreprocess([image.preprocess, text.preprocess])

    @property
    def model(self) -> nn.ModuleDict:  # type: ignore[override]
        """Both libraries' own modules, ``image`` and ``text``."""
        return nn.ModuleDict({"image": self.image.model, "text": self.text.model})

    def taps(self) -> tuple[str, ...]:
        return (*self.image.taps(), *self.text.taps())

    def learns(self, tap: str) -> bool:
        return (self.image if tap.startswith("image.") else self.text).learns(tap)

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        features: Features = {}
        for tower in (self.image, self.text):
            own = [tap for tap in taps if tap in tower.taps()]
            if own:
                features.update(tower.compute(inputs, own))
        return features

    def identity(self) -> str:
        return digest(image=self.image.identity(), text=self.text.identity())


@STUDENTS.register("clip")
def clip(image: Mapping[str, Any], text: Mapping[str, Any] | None = None, embed_dim: int = 256) -> ClipStudent:
    """An image and a text tower with one ``embed_dim``.

    ``image`` and ``text`` are the options of the students of those names: ``image: {model: tf_efficientnet_lite0}``.
    """
    towers: dict[str, Any] = {}
    for name, make, given in (("image", make_image, image), ("text", make_text, text or {})):
        options = {**given, "embed_dim": embed_dim}
        problems = option_problems(f"student.{name}", make, options)
        if problems or given.get("embed_dim", embed_dim) != embed_dim or given.get("num_classes"):
            problems.setdefault(
                "embed_dim", f"student.{name} takes the student's own embed_dim; give neither another nor num_classes."
            )
            raise AdapterError("\n".join(problems.values()))
        towers[name] = make(**options)
        towers[name].spec = {"name": name, **options}
    return ClipStudent(f"clip ({towers['image'].name}, {towers['text'].name})", towers["image"], towers["text"])
