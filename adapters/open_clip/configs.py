"""A configuration in open_clip's own words, written by a user: what is wrong with it, and a name for a while."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.sources import FOLDER, HUB, architecture, get_open_clip, open_clip_name_problem
from xmodal.errors import AdapterError, hint

BASE = "name"
"""The key of a configuration that names one of open_clip's to start from."""

RANDOM, OWN, INHERITED = "random", "pretrained", "inherit"
"""Words for a student's weights; anything else is a tag or a path."""

_OWN_NAME = "the model of your configuration"
_NOT_WRITTEN = ("self", "cast_dtype")


def config_problems(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with a configuration: dotted key (empty for the whole) and message."""
    base = given.get(BASE)
    if base is not None:
        problem = open_clip_name_problem(base) if isinstance(base, str) else f"{base!r} is not a name"
        if problem:
            yield BASE, problem
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if base is None and key not in given:
            yield key, f"is missing; give it, or {BASE}: a model of open_clip's to take it from"
    known = _known()
    for key, value in given.items():
        if key != BASE and key not in known:
            yield key, f"no such key. {hint(key, known)}"
        elif key.endswith("_cfg") and not isinstance(value, Mapping):
            yield key, f"is to be a mapping; given {value!r:.80}"
        elif key.endswith("_cfg"):
            yield from ((f"{key}.{name}", f"no such key. {hint(name, known[key])}") for name in set(value) - known[key])


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration: ``given``, over that of the model it names.

    Raises :class:`~xmodal.errors.AdapterError` with all that is wrong with it.
    """
    problems = [f"student.model{f'.{key}' if key else ''}: {message}" for key, message in config_problems(given)]
    if problems:
        raise AdapterError("\n".join(problems))
    config = deepcopy(architecture(given[BASE])) if BASE in given else {}
    for key, value in given.items():
        if key != BASE:
            config[key] = {**(config.get(key) or {}), **value} if isinstance(value, Mapping) else value
    return config


def weights_problem(model: str | Mapping[str, Any], weights: str | Path) -> str | None:
    """What is wrong with a student's ``weights``; None where nothing is. Nothing is fetched."""
    weights = str(weights)
    if weights in (RANDOM, INHERITED):
        return None
    if isinstance(model, str) and model.startswith((HUB, FOLDER)):
        return None if weights == OWN else f"{weights!r}: {model} has weights of its own; say {OWN}, or {RANDOM}"
    name = model.replace("/", "-") if isinstance(model, str) else ""
    tags = [str(tag) for tag in get_open_clip().list_pretrained_tags_by_model(name)]
    if weights == OWN:
        return None if len(tags) == 1 else f"say which weights are meant: a tag, or the path of a file. {_listed(tags)}"
    if get_open_clip().get_pretrained_cfg(name, weights) or Path(weights).expanduser().is_file():
        return None
    return f"{weights!r} is none of {RANDOM}, {OWN} and {INHERITED}, and there is no such tag or file. {_listed(tags)}"


@contextmanager
def named(config: Mapping[str, Any]) -> Iterator[str]:
    """Inside, open_clip knows ``config`` by the name that is returned."""
    get_open_clip()
    from open_clip.factory import _MODEL_CONFIGS

    _MODEL_CONFIGS[_OWN_NAME] = deepcopy(dict(config))
    try:
        yield _OWN_NAME
    finally:
        del _MODEL_CONFIGS[_OWN_NAME]


def short_name(model: str | Mapping[str, Any]) -> str:
    """What messages and cards call a model: the end of its name, or that of the one it was changed from."""
    if isinstance(model, str):
        return model.removeprefix(HUB).removeprefix(FOLDER).rstrip("/").rpartition("/")[2]
    return f"changed {short_name(model[BASE])}" if isinstance(model.get(BASE), str) else "own configuration"


def _listed(tags: list[str]) -> str:
    return f"Tags: {', '.join(tags)}" if tags else "open_clip has no weights for this model"


def _known() -> dict[str, set[str]]:
    """Key → those in it."""
    get_open_clip()
    from open_clip import coca_model, model

    keys = {*inspect.signature(model.CLIP).parameters, *inspect.signature(coca_model.CoCa).parameters, "custom_text"}
    inner = {
        "vision_cfg": model.CLIPVisionCfg,
        "text_cfg": model.CLIPTextCfg,
        "multimodal_cfg": coca_model.MultimodalCfg,
    }
    return {
        key: {field.name for field in dataclasses.fields(inner[key])} if key in inner else set()
        for key in keys
        if key not in _NOT_WRITTEN
    }
