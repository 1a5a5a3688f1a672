"""The run folder: what lies where, and when it may be written to."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xmodal.errors import RunError
from xmodal.files import PARTIAL, write_text
from xmodal.plain import read_yaml
from xmodal.recipe import Recipe
from xmodal.train.checkpoint import Place, list_checkpoints

_LOCK = ".lock"

# Keys that change how fast or where a run goes, not what comes out of it.
_MAY_CHANGE = {
    "data.num_workers",
    "train.device",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.evaluate_every",
    "train.term_gradients_every",
    "description",
    "baseline",
}


class RunFolder:
    """Paths of one run. Files appear as the run goes; ``summary.json`` marks a finished one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.resolved.yaml"
        self.environment = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.log = self.path / "train.log"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"
        self.evaluation = self.path / "evaluation.json"
        self.gallery = self.path / "gallery.json"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self.bad_samples = self.path / "bad_samples.jsonl"

    @property
    def is_finished(self) -> bool:
        return self.summary.is_file()

    def latest(self) -> Place | None:
        """The newest whole checkpoint."""
        places = list_checkpoints(self.checkpoints)
        return places[-1] if places else None

    def create(self, recipe: Recipe) -> None:
        """Make the folder for a new run; one that holds anything is refused.

        What a run left that ended before its first checkpoint does not count, and is removed.
        """
        if self._is_false_start():
            self._clear()
        elif self.path.exists() and (not self.path.is_dir() or self._entries()):
            raise RunError(
                f"{self.path} is not empty. To go on with the run in it: --resume. For a new run: another --out."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.recipe, recipe.to_yaml())
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error}. Choose another --out.") from error

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the folder for this process; raises :class:`RunError` where another one has it."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not an empty folder. Choose another --out.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.path} is in use: another process is running in it. Wait for that one, or choose another --out."
            ) from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error}. Choose another --out.") from error
        try:
            for left in self.path.glob(f".*{PARTIAL}"):  # by runs that were killed
                left.unlink()
            yield
        finally:
            lock.release()

    def _entries(self) -> list[Path]:
        # a kill may leave a partial file, of a run that has begun or of one that has not
        return [path for path in self.path.iterdir() if path.name != _LOCK and path.suffix != PARTIAL]

    def _is_false_start(self) -> bool:
        if not self.recipe.is_file() or self.is_finished or self.latest() is not None:
            return False
        own = {self.recipe, self.environment, self.metrics, self.tensorboard, self.log, self.checkpoints}
        return set(self._entries()) <= own | {self.bad_samples}

    def _clear(self) -> None:
        for path in self._entries():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def reopen(self, recipe: Recipe) -> None:
        """Check that the run in the folder is this ``recipe``'s; raises :class:`RunError` that lists what differs."""
        if not self.recipe.is_file():
            raise RunError(
                f"{self.path} holds no run to resume: {self.recipe.name} is missing. Start it without --resume."
            )
        begun = _flatten(read_yaml(self.recipe.read_text(encoding="utf-8")))
        wanted = _flatten(recipe.to_dict())
        lines = [
            f"  {key}: {begun.get(key, 'absent')!r} when it began, {wanted.get(key, 'absent')!r} now"
            for key in sorted(begun.keys() | wanted.keys())
            if begun.get(key) != wanted.get(key) and key not in _MAY_CHANGE
        ]
        if lines:
            raise RunError(
                f"{self.path} was begun with other settings:\n"
                + "\n".join(lines)
                + "\nResume with those it began with "
                f"(they are in {self.recipe}), or start a new run in another --out."
            )


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = ((str(index), entry) for index, entry in enumerate(value))  # type: ignore[assignment]
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, entry in entries:
        flat |= _flatten(entry, f"{path}.{key}" if path else str(key))
    return flat
