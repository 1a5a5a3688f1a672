"""What is known of teachers and students before they are made: their names, networks and taps."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.errors import AdapterError, Mistake, XmodalError, hint
from xmodal.recipes.options import option_mistakes
from xmodal.taps import layer_of, renamed

GIVEN = "given"
"""The name of a model that Python code handed over as an object; the recipe cannot make it again."""

AVERAGE = "ema"
"""The name of the teacher that is the student's own moving average; it is made of the student, and of nothing else."""

_IMAGE = ("image.embedding", "image.tokens", "image.map", "image.hidden.N")
_INSIDE = tuple(f"text.{kind}.N" for kind in ("attention", "scores", "query", "key", "value"))
_TEXT = ("text.embedding", "text.features", "text.tokens", "text.hidden.N", *_INSIDE, "text.mask")
_MODELS_IN = {
    ("teacher", "sentence"): ("model",),
    ("teacher", "transformers"): ("model",),
    ("student", "text"): ("model", "tokenizer"),
    ("student", "static"): ("model", "tokenizer"),
}
"""Options that are a hub name, a package's or a folder."""

_TOP = ("values", "indices", "tail")
"""What a cache may hold of logits in their place: the likeliest classes."""


@dataclass(frozen=True)
class Outline:
    """A model's taps as far as they are known; a layer whose number is not known is written N."""

    owner: str
    taps: tuple[str, ...]

    def has(self, tap: str) -> bool:
        stem, layer = layer_of(tap)
        if tap in self.taps or (layer is not None and f"{stem}.N" in self.taps):
            return True
        layers = [found for name in self.taps if (found := layer_of(name))[0] == stem and found[1] is not None]
        return layer is not None and -len(layers) <= layer < 0


def factory_of(path: str, name: str) -> tuple[Callable[..., Any] | None, Mistake | None]:
    """The function that makes the model at ``path``, or the mistake in its ``name``."""
    import xmodal.adapters.students
    import xmodal.adapters.teachers  # noqa: F401  both fill the registries
    from xmodal.adapters import STUDENTS, TEACHERS

    kind, registry = ("student", STUDENTS) if path == "student" else ("teacher", TEACHERS)
    if name in registry:
        return registry[name], None
    return None, Mistake(f"{path}.name", f"{name!r} is not a {kind}. {hint(name, registry)}")


def model_mistakes(path: str, name: str, options: Mapping[str, Any]) -> Iterator[Mistake]:
    """Networks that do not exist, weights that are neither a known word nor a file, options of a part of the model."""
    if (path == "student", name) in ((True, "image"), (False, "timm")):
        yield from _network(path, options)
    elif path == "student" and name == "clip":
        yield from _towers(options)
    elif path == "student" and name == "open_clip":
        yield from _open_clip_student(options)
    elif path != "student" and name == "ensemble":
        yield from _members(path, options.get("teachers"))
    elif path != "student" and name == "open_clip":
        yield from _open_clip(path, options)
    elif path != "student" and name == "trained":
        yield from _trained(path, options.get("folder"))
    elif path != "student" and name == AVERAGE:
        yield from _average(path, options.get("decay"))
    yield from _folders(path, name, options)


def _folders(path: str, name: str, options: Mapping[str, Any]) -> Iterator[Mistake]:
    """Options that name a transformers model, on the hub or in a folder, where there is no such folder."""
    from xmodal.adapters.hub import folder_problem

    kind = "student" if path.partition(".")[0] == "student" else "teacher"
    for option in _MODELS_IN.get((kind, name), ()):
        given = options.get(option)
        if isinstance(given, str) and (problem := folder_problem(given)):
            yield Mistake(f"{path}.{option}", problem)


def _open_clip(path: str, options: Mapping[str, Any]) -> Iterator[Mistake]:
    from xmodal.adapters.open_clip.sources import choose_weights, open_clip_name_problem

    model, pretrained = options.get("model"), options.get("pretrained", True)
    if not isinstance(model, str):
        return
    if problem := open_clip_name_problem(model):
        yield Mistake(f"{path}.model", problem)
    elif pretrained is True or isinstance(pretrained, str):
        try:
            choose_weights(model, pretrained)
        except AdapterError as error:
            yield Mistake(f"{path}.pretrained", str(error))


def _trained(path: str, folder: Any) -> Iterator[Mistake]:
    from xmodal.adapters.teachers.trained import trained_problem

    if isinstance(folder, str) and (problem := trained_problem(folder)):
        yield Mistake(f"{path}.folder", problem)


def _average(path: str, decay: Any) -> Iterator[Mistake]:
    if ".teachers." in path:
        yield Mistake(path, "the student's average is no member of an ensemble; give it a place under teachers")
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        yield Mistake(f"{path}.decay", f"is at least 0 and below 1; given {decay}")


def _members(path: str, teachers: Any) -> Iterator[Mistake]:
    for number, spec in enumerate(teachers if isinstance(teachers, list) else ()):
        own = f"{path}.teachers.{number}"
        if not isinstance(spec, Mapping):
            continue  # that it should be one was said of the whole list
        if not isinstance(spec.get("name"), str):
            yield Mistake(f"{own}.name", "is missing: the name of a teacher")
            continue
        options = {option: value for option, value in spec.items() if option != "name"}
        factory, mistake = factory_of(own, spec["name"])
        if mistake is not None:
            yield mistake
        if factory is not None:
            yield from option_mistakes(own, f"teacher {spec['name']!r}", factory, options)
            yield from model_mistakes(own, spec["name"], options)


def _towers(options: Mapping[str, Any]) -> Iterator[Mistake]:
    from xmodal.adapters import STUDENTS

    for tower in ("image", "text"):
        own = options.get(tower)
        if isinstance(own, Mapping):
            yield from option_mistakes(f"student.{tower}", f"the {tower} tower", STUDENTS[tower], own)
            yield from _network(f"student.{tower}", own) if tower == "image" else ()
            yield from _folders(f"student.{tower}", tower, own)


def _open_clip_student(options: Mapping[str, Any]) -> Iterator[Mistake]:
    from xmodal.adapters.open_clip.configs import config_problems, weights_problem
    from xmodal.adapters.open_clip.inherit import inherit_problems
    from xmodal.adapters.open_clip.sources import open_clip_name_problem

    model, weights = options.get("model"), options.get("weights", "random")
    if isinstance(model, Mapping):
        yield from (Mistake(f"student.model.{key}", message) for key, message in config_problems(model))
    elif not isinstance(model, str):
        return
    elif problem := open_clip_name_problem(model):
        yield Mistake("student.model", problem)
        return
    if isinstance(weights, str) and (problem := weights_problem(model, weights)):
        yield Mistake("student.weights", problem)
    if (options.get("inherit") is not None) != (weights == "inherit"):
        yield Mistake("student.inherit", "goes with weights: inherit; give both, or neither")
    elif weights == "inherit":
        yield from (Mistake(f"student.inherit.{key}", said) for key, said in inherit_problems(options["inherit"]))


def _network(path: str, options: Mapping[str, Any]) -> Iterator[Mistake]:
    from xmodal.adapters.networks import timm_name_problem

    if isinstance(options.get("model"), str) and (problem := timm_name_problem(options["model"])):
        yield Mistake(f"{path}.model", problem)
    weights = options.get("weights")
    if isinstance(weights, str) and weights not in ("imagenet", "random") and not Path(weights).expanduser().exists():
        yield Mistake(
            f"{path}.weights", f"{weights!r} is neither imagenet nor random, and there is no such file or folder"
        )


def outline(path: str, spec: Any, texts: Sequence[str] = ()) -> Outline | None:
    """The taps of the model that ``spec`` would make; None where nothing is known of it.

    ``texts`` are the names under ``data.texts``, which every model of texts reads, but one that is cached.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        return None
    name = spec["name"]
    kind = "student" if path == "student" else "teacher"
    taps = _taps(kind, name, spec)
    if taps is None:
        return None
    if spec.get("cached"):
        taps = (*taps, *(f"{tap}.{part}" for tap in taps if tap.endswith("logits") for part in _TOP))
    else:
        taps = (*taps, *(renamed(tap, "text", name) for name in texts for tap in taps if tap.startswith("text.")))
    model = spec.get("model")
    return Outline(f"{kind} {name!r}" + (f" ({model.rpartition('/')[2]})" if isinstance(model, str) else ""), taps)


def _taps(kind: str, name: str, spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    if (kind, name) == ("student", "image"):
        return ("image.embedding", "image.features", *_IMAGE[1:], *(("logits",) if spec.get("num_classes") else ()))
    if (kind, name) == ("teacher", "timm"):
        return (*_IMAGE, "logits")
    if (kind, name) == ("teacher", "reinforced"):
        given = spec.get("teachers", 2)
        parts = range(given) if type(given) is int and 0 < given <= 100 else ()
        return tuple(
            f"{side}.{tap}" for side in ("image", "text") for tap in ("embedding", *(f"part.{n}" for n in parts))
        )
    if (kind, name) == ("teacher", "sentence"):
        return _numbered(_TEXT, _layers_of(spec.get("model")))
    if (kind, name) == ("teacher", "ensemble"):
        return _ensemble(spec.get("teachers"))
    if (kind, name) == ("teacher", "trained"):
        return _of_trained(spec.get("folder"))
    if (kind, name) == ("student", "text"):
        layers = spec.get("layers")
        count = spec.get("num_layers", _default("text", "num_layers"))
        return _numbered(_TEXT, len(layers) if isinstance(layers, list) else count)
    if (kind, name) == ("student", "static"):
        return ("text.embedding", "text.features", "text.tokens", "text.mask")
    if (kind, name) == ("student", "clip"):
        tower = spec.get("text")
        text = {"name": "text", **(tower if isinstance(tower, Mapping) else {})}
        return (*(_taps(kind, "image", {}) or ()), *(_taps(kind, "text", text) or ()))
    return None


def _ensemble(teachers: Any) -> tuple[str, ...] | None:
    from xmodal.adapters.ensemble_taps import member_taps

    specs = [spec if isinstance(spec, Mapping) else {} for spec in teachers] if isinstance(teachers, list) else [{}]
    known = [_taps("teacher", str(spec.get("name")), spec) for spec in specs]
    return None if None in known else tuple(member_taps([taps or () for taps in known]))


def _of_trained(folder: Any) -> tuple[str, ...] | None:
    from xmodal.adapters.teachers.trained import spec_of_trained

    student = spec_of_trained(folder)
    return _taps("student", str(student.get("name")), student) if student else None


def _default(student: str, option: str) -> Any:
    from xmodal.adapters import STUDENTS

    return inspect.signature(STUDENTS[student]).parameters[option].default


def _numbered(taps: tuple[str, ...], num_layers: Any) -> tuple[str, ...]:
    """``N`` replaced by the layers of a text model: states before and after each, attention within each."""
    if type(num_layers) is not int:
        return taps
    counts = {"text.hidden.N": num_layers + 1, **dict.fromkeys(_INSIDE, num_layers)}
    return tuple(
        numbered
        for tap in taps
        for numbered in ([f"{tap[:-1]}{layer}" for layer in range(counts[tap])] if tap in counts else [tap])
    )


def _layers_of(model: Any) -> int | None:
    """How many layers the configuration of a local or packaged model names; None where it is not on this machine."""
    from xmodal.adapters.packages import PACKAGES

    if not isinstance(model, str):
        return None
    folder: Path | None = Path(model).expanduser()
    if not Path(model).expanduser().is_dir():
        try:
            folder = PACKAGES[model].find() if model in PACKAGES else None
        except XmodalError:  # said where the model is made
            return None
    if folder is None:
        return None
    try:
        layers = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return layers if isinstance(layers, int) else None
