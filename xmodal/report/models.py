"""What was distilled into what: the models side by side, their squares drawn to scale."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmodal.report import numbers
from xmodal.report.files import RunFiles, mapping

LARGEST_SIDE = 120.0


@dataclass(frozen=True)
class Model:
    """One teacher or the student, in words; ``side`` is the square whose area is its parameters, None where unknown."""

    role: str
    name: str
    adapter: str
    reads: str
    parameters: str
    size: str
    latency: str
    side: float | None


@dataclass(frozen=True)
class Models:
    """Teachers, student, the sentence that joins them, and how much smaller and faster the student is."""

    teachers: list[Model]
    student: Model
    sentence: str
    comparison: str
    measured_on: str


def read_models(run: RunFiles) -> Models:
    """From summary.json; where that is missing, the names that the recipe gives."""
    teachers = {name: mapping(entry) for name, entry in mapping(run.summary.get("teachers")).items()}
    student = mapping(run.summary.get("student"))
    if not teachers:
        specs = {"teacher": run.recipe["teacher"]} if run.recipe.get("teacher") else mapping(run.recipe.get("teachers"))
        teachers = {name: {"name": _spec_name(mapping(spec))} for name, spec in specs.items()}
    if not student and run.recipe.get("student"):
        student = {"name": _spec_name(mapping(run.recipe["student"]))}
    known = [size for entry in [*teachers.values(), student] if (size := _positive(entry, "parameters"))]
    largest = max(known, default=1.0)
    rows = [_model("teacher" if len(teachers) == 1 else name, entry, largest) for name, entry in teachers.items()]
    pupil = _model("student", student, largest)
    return Models(rows, pupil, _sentence(rows, pupil), _comparison(teachers, student), _measured_on(run.environment))


def _model(role: str, entry: Mapping[str, Any], largest: float) -> Model:
    parameters = _positive(entry, "parameters")
    modalities = entry.get("modalities")
    name, adapter = _names(str(entry.get("name") or "not known"))
    return Model(
        role=role,
        name=name,
        adapter=adapter or numbers.UNKNOWN,
        reads=", ".join(map(str, modalities)) if isinstance(modalities, list) else numbers.UNKNOWN,
        parameters=numbers.millions(parameters),
        size=numbers.file_size(_positive(entry, "bytes")),
        latency=numbers.milliseconds(_positive(entry, "latency_ms")),
        side=LARGEST_SIDE * math.sqrt(parameters / largest) if parameters else None,
    )


def _names(name: str) -> tuple[str, str]:
    """An encoder's name, ``"sentence (all-MiniLM-L6-v2)"``, as the model and the adapter that wraps it.

    >>> _names("sentence (all-MiniLM-L6-v2)"), _names("my own")
    (('all-MiniLM-L6-v2', 'sentence'), ('my own', ''))
    """
    found = re.fullmatch(r"([\w-]+) \((.+)\)", name)
    return (found[2], found[1]) if found else (name, "")


def _sentence(teachers: list[Model], student: Model) -> str:
    def named(model: Model) -> str:
        parameters = f"{model.parameters} parameters" if model.parameters != numbers.UNKNOWN else ""
        facts = ", ".join(fact for fact in (model.reads, parameters) if fact and fact != numbers.UNKNOWN)
        return f"{model.name} ({facts})" if facts else model.name

    if not teachers:
        return f"{named(student)} was trained without a teacher."
    return f"{' and '.join(map(named, teachers))} taught {named(student)}."


def _comparison(teachers: Mapping[str, Mapping[str, Any]], student: Mapping[str, Any]) -> str:
    """How the student compares with its teacher; nothing where there are several, for then with which?"""
    if len(teachers) != 1:
        return ""
    (teacher,) = teachers.values()
    parts = []
    for key, verb, of, times in (
        ("parameters", "has", "of the teacher’s parameters", "times the teacher’s parameters"),
        ("latency_ms", "takes", "of its time", "times as long"),
    ):
        ours, theirs = _positive(student, key), _positive(teacher, key)
        if ours and theirs:
            ratio = ours / theirs
            share = f"{numbers.percent(ratio)} {of}" if ratio < 1 else f"{numbers.significant(ratio, 2)} {times}"
            parts.append(f"{verb} {share}")
    return f"The student {' and '.join(parts)}." if parts else ""


def _measured_on(environment: Mapping[str, Any]) -> str:
    """The machine behind the latencies, as far as env.json says."""
    device, threads = environment.get("device"), numbers.finite(environment.get("torch_threads"))
    if not isinstance(device, str) or not device:
        return ""
    return (
        f"{device}, {numbers.count(threads)} thread{'' if threads == 1 else 's'}"
        if threads and device == "cpu"
        else device
    )


def _spec_name(spec: Mapping[str, Any]) -> str:
    name, model = str(spec.get("name", "")), spec.get("model")
    return f"{name} ({str(model).rsplit('/', 1)[-1]})" if isinstance(model, str) else name


def _positive(entry: Mapping[str, Any], key: str) -> float | None:
    value = numbers.finite(entry.get(key))
    return value if value is not None and value > 0 else None
