"""The loop: batch, step, record, checkpoint, evaluate. Everything it does at a step depends on the step alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from xmodal.data import TrainStream, stable_hash
from xmodal.errors import Interrupted, RunError
from xmodal.recipe import Train
from xmodal.schemes import Progress, Scheme, StepResult
from xmodal.train.batches import num_rows, to_device
from xmodal.train.checkpoint import Place, save_checkpoint
from xmodal.train.distributed import World
from xmodal.train.folder import RunFolder
from xmodal.train.interrupt import StopRequest, stop_requests
from xmodal.train.progress import Meter, ProgressBar
from xmodal.train.records import Records
from xmodal.train.schedule import learning_rate_factor

logger = logging.getLogger("xmodal")

Metrics = Mapping[str, Mapping[str, float]]


@dataclass
class Stage:
    """One stage of a run, ready to go on after ``done`` of its ``num_steps``; the meter is the run's."""

    number: int
    scheme: Scheme
    stream: TrainStream
    settings: Train
    num_steps: int
    done: int = 0
    meter: Meter = field(default_factory=Meter)
    models: Mapping[str, str] = field(default_factory=dict)
    """What each teacher is, and how the student reads: a run goes on with no others."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme.state_dict(),
            "stream": self.stream.state(),
            "meter": self.meter.state_dict(),
            "models": dict(self.models),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises :class:`RunError` where the models are not those that the state was taken of."""
        then = state.get("models") or self.models
        changed = [
            f"{name}: {then.get(name)} then, {is_now} now"
            for name, is_now in self.models.items()
            if is_now != then.get(name)
        ]
        if changed:
            raise RunError(
                "The run cannot go on: what its recipe names is no longer what it was. "
                f"{'; '.join(changed)}. A teacher's weights, or the texts that the student's tokenizer was made of, "
                "have changed. Put them back, or start a new run in another --out."
            )
        self.scheme.load_state_dict(state["scheme"])
        self.stream.load_state(state["stream"])
        self.meter = Meter(**state["meter"])


class Loop:
    """Runs stages of one run folder. Only the main rank writes."""

    def __init__(
        self,
        folder: RunFolder,
        world: World,
        console: Console,
        evaluate: Callable[[Scheme], Metrics],
        num_stages: int = 1,
    ) -> None:
        self.folder, self.world, self.console, self.evaluate = folder, world, console, evaluate
        self.num_stages = num_stages

    def run(self, stage: Stage) -> None:
        """Train to the end of ``stage``.

        Raises :class:`Interrupted` after a checkpoint where the user asked to stop, and :class:`RunError` where too
        many steps in a row were not finite, or the last ones.
        """
        settings, meter = stage.settings, stage.meter
        bad_before = meter.bad_samples
        record_every = max(1, stage.num_steps // 1000)
        batches = iter(stage.stream)
        place = Place(stage.number, stage.done)
        records = Records(self.folder, place) if self.world.is_main else None
        title = f"stage {stage.number + 1} of {self.num_stages}, step" if self.num_stages > 1 else "step"
        bar = ProgressBar(self.console, stage.num_steps, stage.done, title)
        try:
            with stop_requests() as stop, bar:
                meter.start()
                for step in range(stage.done, stage.num_steps):
                    waiting = time.perf_counter()
                    batch = to_device(next(batches), self.world.device)
                    meter.waited += time.perf_counter() - waiting
                    # The randomness of a step is a function of the step, so a checkpoint holds no generator's state.
                    torch.manual_seed(stable_hash(settings.seed, stage.number, step, self.world.rank))
                    factor = learning_rate_factor(step, stage.num_steps, settings.schedule, settings.warmup)
                    result = stage.scheme.step(batch, Progress(step, stage.num_steps, factor))
                    meter.samples += num_rows(batch) * self.world.size
                    place = Place(stage.number, step + 1)
                    last = place.step == stage.num_steps
                    meter.steps += 1
                    meter.bad_samples = bad_before + stage.stream.num_bad
                    meter.skipped_in_a_row = meter.skipped_in_a_row + 1 if result.skipped else 0
                    if result.skipped:
                        meter.skipped_steps += 1
                        # One bad batch may be the last; a run that ends amid several has not learned to the end.
                        limit = min(settings.max_nonfinite, 1) if last else settings.max_nonfinite
                        self._warn_or_stop(place, result, meter.skipped_in_a_row, limit)
                    if records and (place.step % record_every == 0 or result.term_gradients):
                        values = self._values(result, settings.learning_rate * factor, meter)
                        records.write(place, values)
                        bar.update(place.step, values["terms"], meter)
                    if settings.evaluate_every and place.step % settings.evaluate_every == 0 and not last:
                        self._evaluate(stage, place, records)
                    # Amid steps that fail a checkpoint would drive out one from before them, so a stop waits too.
                    stopping = self._all_agree(stop) and not result.skipped
                    due = place.step % settings.checkpoint_every == 0 and not result.skipped
                    if stopping or due or last:
                        self.save(stage, place)
                    if stopping and not last:
                        raise Interrupted(f"Stopped at step {place.step} of {stage.num_steps}, which is saved.")
        finally:
            meter.stop()
            if records:
                records.__exit__()

    def save(self, stage: Stage, place: Place) -> None:
        """A checkpoint of everything that a resumed run needs."""
        if self.world.is_main:
            save_checkpoint(self.folder.checkpoints, place, stage.state_dict(), stage.settings.keep_checkpoints)
        self.world.barrier()

    def _warn_or_stop(self, place: Place, result: StepResult, in_a_row: int, limit: int) -> None:
        names = ", ".join(result.skipped)
        logger.warning("step %d was skipped: %s not finite (%d in a row)", place.step, names, in_a_row)
        if in_a_row > limit:
            kept = self.folder.latest()
            last = f"The last checkpoint, step {kept.step}, is from before." if kept else "There is no checkpoint yet."
            raise RunError(
                f"{_steps(in_a_row)} not finite, the last at step {place.step}: {names}. {last} Look at "
                f"the terms in {self.folder.metrics}, lower train.learning_rate, or allow more: train.max_nonfinite."
            )

    def _evaluate(self, stage: Stage, place: Place, records: Records | None) -> None:
        if records:
            records.write(place, {"evaluation": self.evaluate(stage.scheme)})
        self.world.barrier()

    def _all_agree(self, stop: StopRequest) -> bool:
        if self.world.size == 1:
            return bool(stop)
        asked = torch.tensor(float(bool(stop)), device=self.world.device)
        dist.all_reduce(asked)  # a signal reaches ranks between different steps
        return bool(asked > 0)

    @staticmethod
    def _values(result: StepResult, learning_rate: float, meter: Meter) -> dict[str, Any]:
        asked_for = {"scheduled": result.scheduled, "term_gradients": result.term_gradients}
        return {
            "time": round(meter.seconds, 3),
            "loss": result.loss.item(),
            "terms": {label: value.item() for label, value in result.terms.items()},
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm.item(),
            "samples_per_second": round(meter.samples_per_second, 2),
            "data_wait": round(meter.data_wait, 4),
            **{name: values for name, values in asked_for.items() if values},
        }


def _steps(count: int) -> str:
    return "A step was" if count == 1 else f"{count} steps in a row were"
