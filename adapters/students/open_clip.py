"""An open_clip model, both towers, as student: what the teacher of that name is, and trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.configs import INHERITED, OWN, RANDOM, complete, named, short_name, weights_problem
from xmodal.adapters.open_clip.inherit import inherit_from
from xmodal.adapters.open_clip.loading import Loaded, load_open_clip
from xmodal.adapters.open_clip.sources import open_clip_name_problem
from xmodal.adapters.registration import STUDENTS
from xmodal.adapters.teachers.open_clip import OpenClipTeacher
from xmodal.errors import AdapterError

_CHOICES: dict[str, bool] = {RANDOM: False, OWN: True, INHERITED: False}
_WITHOUT_PLACES = ("image.embedding", "image.features", "image.pooled")


class OpenClipStudent(OpenClipTeacher):
    """An open_clip model that learns; its taps are those of :class:`OpenClipTeacher`.

    Its own scale and bias get a gradient only where a term asks for the taps ``logit_scale`` and ``logit_bias``, and
    stay as they were otherwise. A model with ``patch_dropout`` sees other patches at every step: of its pictures it has
    only what is pooled.
    """

    def __init__(self, name: str, loaded: Loaded) -> None:
        # Its weights change, so that no file's hash says what they are.
        super().__init__(name, dataclasses.replace(loaded, weights=None))

    @property
    def config(self) -> dict[str, Any]:
        """``embed_dim``, ``vision_cfg``, ``text_cfg`` and the like, as open_clip makes the model from."""
        return self._config

    def taps(self) -> tuple[str, ...]:
        every = super().taps()
        if not self._config["vision_cfg"].get("patch_dropout"):
            return every
        return tuple(tap for tap in every if not tap.startswith("image.") or tap in _WITHOUT_PLACES)


@STUDENTS.register("open_clip")
def open_clip(
    model: str | Mapping[str, Any],
    weights: str | Path = "random",
    image_size: int | None = None,
    context_length: int | None = None,
    inherit: Mapping[str, Any] | None = None,
) -> OpenClipStudent:
    """An open_clip model as student: both towers, its own transform and tokenizer.

    ``model``: a name of open_clip's, ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``, or a configuration in open_clip's own
    words (``embed_dim``, ``vision_cfg``, ``text_cfg``, …); with ``name`` in it, the changes to that model's.
    ``weights``: ``random``; ``pretrained``, what repository or folder holds, or the only tag there is; a tag; or the
    path of a weight file; or ``inherit``, some of a bigger model's: ``inherit: {model, pretrained, layers, channels,
    heads, norm}``, the first two as the teacher's, the others of :class:`~xmodal.adapters.inheritance.Rule`.
    ``image_size``, pixels, and ``context_length``, tokens, in place of the model's own.
    """
    options: dict[str, Any] = {"image_size": image_size, "context_length": context_length}
    with _config_or_name(model) as name:
        if problem := weights_problem(model, weights):
            raise AdapterError(f"student.weights: {problem}.")
        if (inherit is None) == (weights == INHERITED):
            raise AdapterError(f"student.weights: {INHERITED} and student.inherit go together: give both, or neither.")
        loaded = load_open_clip(name, pretrained=_CHOICES.get(str(weights), str(weights)), **options)
    if inherit is not None:
        inherit_from(loaded.model, inherit)
    config = deepcopy(loaded.config)
    for part, size in (("vision_cfg", "image_size"), ("text_cfg", "context_length")):
        if options[size] is not None:
            config[part][size] = options[size]
    _check_size(loaded.model.visual)
    return OpenClipStudent(f"open_clip ({short_name(model)})", dataclasses.replace(loaded, config=config))


def _check_size(visual: Any) -> None:
    """Refuse a timm network at a size that an open_clip folder cannot say: open_clip makes it at its own."""
    known = getattr(getattr(visual, "trunk", None), "pretrained_cfg", {})
    size, own = tuple(visual.image_size), tuple(known.get("input_size", ()))[1:]
    if known.get("fixed_input_size") and size != own:
        raise AdapterError(
            f"open_clip makes {known['architecture']} for pictures of {own[0]} x {own[1]} pixels, whatever a folder "
            f"says: a student of {size[0]} x {size[1]} could not be loaded. Give image_size {own[0]} or another model."
        )


def _config_or_name(model: str | Mapping[str, Any]) -> AbstractContextManager[str]:
    """Inside, the name that open_clip knows ``model`` by."""
    if not isinstance(model, str):
        return named(complete(model))
    if problem := open_clip_name_problem(model):
        raise AdapterError(problem)
    return nullcontext(model)
