"""A student that xmodal trained, as the teacher of another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.registration import TEACHERS
from xmodal.errors import AdapterError, ZooError, nearest


@TEACHERS.register("trained")
def trained(folder: str) -> Encoder:
    """The student in a run's folder or in its own, or one of the zoo by name, with its own taps and preprocessing.

    A relative ``folder`` is looked for from where the command runs, as shards are, and is recorded as it was written. A
    folder goes before a name of the zoo. Its identity is the student's: of weights and preprocessing, wherever it lies.
    """
    from xmodal.export.native import load_student  # it imports the students

    student = load_student(find_trained(folder))
    student.name = f"trained ({folder})"
    return student


def find_trained(folder: str) -> Path:
    """The folder of the student meant by ``folder``; one of the zoo is downloaded, if it is not there.

    Raises :class:`~xmodal.errors.AdapterError` where there is none, or it is the user's own module.
    """
    if problem := trained_problem(folder):
        raise AdapterError(problem)
    path = Path(folder).expanduser()
    if not path.exists():
        from xmodal.zoo.fetch import download

        path = download(folder)
    return path


def trained_problem(folder: str) -> str | None:
    """What is wrong with a ``folder``, as far as it can be told without loading; None where nothing is."""
    from xmodal.export.layout import find_student

    path = Path(folder).expanduser()
    if not path.exists():
        return None if _in_zoo(folder) else _nowhere(folder)
    if not (path / "student").exists() and (path / "recipe.resolved.yaml").is_file():
        return f"{folder} is a run that has no student yet: it is not finished. Go on with it: --resume."
    try:
        found, kind = find_student(path)
    except AdapterError as error:
        return str(error)
    if kind == "module":
        return (
            f"{folder} holds the weights of a module of your own, whose code is in no file. Hand it over in Python: "
            f"distill(teacher=xmodal.load_student({str(found)!r}, module=…))."
        )
    return None


def spec_of_trained(folder: Any) -> Mapping[str, Any] | None:
    """Name and options of the student in ``folder``; None where they are not on this machine."""
    from xmodal.export.layout import find_student, read_notes

    if not isinstance(folder, str):
        return None
    try:
        return read_notes(find_student(folder)[0]).get("student")
    except AdapterError:  # said where the folder is checked; or it is in the zoo
        return None


def _in_zoo(name: str) -> bool:
    from xmodal.zoo.reading import read_index

    try:
        read_index(None).find(name, "the zoo")
    except ZooError:
        return False
    return True


def _nowhere(folder: str) -> str:
    from xmodal.zoo.reading import list_entries

    path = Path(folder).expanduser()
    beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    near = nearest(path.name, [*beside, *(entry.name for entry in list_entries())])
    return (
        f"There is no folder {folder!r} in {Path.cwd()}, and the zoo has no student of that name. Give a run's folder, "
        "a student's, or a name that `xmodal zoo list` shows." + (f" Nearest: {', '.join(near)}" if near else "")
    )
