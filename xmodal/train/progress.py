"""The progress of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import Self

_SECONDS_BETWEEN_LINES = 15.0


@dataclass
class Meter:
    """What a run has done and spent, over all its stages and resumptions; ``waited`` is seconds without a batch.

    ``skipped_steps`` were not taken, for a loss or gradient that was not finite, the last ``skipped_in_a_row``.
    """

    steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    samples: int = 0
    bad_samples: int = 0
    waited: float = 0.0
    before: float = 0.0
    started: float | None = None

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.before, self.started = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds between :meth:`start` and :meth:`stop`, over all of them."""
        return self.before + (time.perf_counter() - self.started if self.started is not None else 0.0)

    @property
    def samples_per_second(self) -> float:
        return self.samples / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the time in which the model waited for the next batch."""
        return self.waited / max(self.seconds, 1e-9)

    def state_dict(self) -> dict[str, float]:
        """What :class:`Meter` is made of again when the run is resumed."""
        kept = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "started"}
        return {**kept, "before": self.seconds}


class _Terms(ProgressColumn):
    def render(self, task: Task) -> Text:
        terms = [f"{label} {value:.3g}" for label, value in task.fields["terms"].items()]
        return Text("  ".join(terms), style="cyan")


class ProgressBar:
    """Shows step, terms, samples a second, the share of time spent waiting for data, and the time left."""

    def __init__(self, console: Console, num_steps: int, done: int = 0, title: str = "step") -> None:
        self._console, self._num_steps, self._title = console, num_steps, title
        self._done, self._started, self._shown = done, time.monotonic(), 0.0
        self._bar = Progress(
            TextColumn(title + " {task.completed}/{task.total}"),
            BarColumn(bar_width=32),
            _Terms(),
            TextColumn("{task.fields[rate]:.0f}/s  data wait {task.fields[wait]:.0%}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=num_steps, completed=done, terms={}, rate=0.0, wait=0.0)

    def update(self, step: int, terms: Mapping[str, float], meter: Meter) -> None:
        rate, wait = meter.samples_per_second, meter.data_wait
        self._bar.update(self._task, completed=step, terms=dict(terms), rate=rate, wait=wait)
        if self._console.is_terminal:
            return
        now = time.monotonic()
        if step == self._num_steps or now - self._shown >= _SECONDS_BETWEEN_LINES:
            self._shown = now
            shown = "  ".join(f"{label} {value:.3g}" for label, value in terms.items())
            minutes, seconds = divmod(
                round((self._num_steps - step) * (now - self._started) / max(1, step - self._done)), 60
            )
            self._console.print(
                f"{self._title} {step}/{self._num_steps}  {shown}  {rate:.0f}/s  data wait {wait:.0%}  "
                f"{minutes}:{seconds:02} left",
                highlight=False,
                soft_wrap=True,
            )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()
