"""Frozen teachers, one student: the plain scheme."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.teachers.ema import AverageTeacher
from xmodal.objective import Objective
from xmodal.objective.presence import Presence
from xmodal.objective.references import BATCH, STUDENT
from xmodal.recipe import Train
from xmodal.schemes.base import SCHEMES, Progress, Scheme, StepResult
from xmodal.schemes.gradients import TermGradients, keep_compiled_graphs
from xmodal.schemes.parts import masks_of, presence_in, shares_of
from xmodal.schemes.presence import features_of
from xmodal.schemes.trainee import Trainee
from xmodal.train.batches import Batch, split, take_fields
from xmodal.train.distributed import World
from xmodal.train.ema import make_average, update_average
from xmodal.train.optimizer import make_optimizer, set_learning_rate

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Low, so that finding the scale at which gradients fit into float16 does not look like a training that broke; it grows.
_FIRST_LOSS_SCALE = 256.0


@SCHEMES.register("offline")
class Offline(Scheme):
    """The student learns from teachers that do not change, or that are its own moving average.

    One step over a batch in ``settings.accumulate`` parts and over all ranks has the gradient of the whole batch in
    one part on one rank: each per-item term of a part weighs as much as the part holds of what the term counts.
    """

    keeps_averages = True

    def __init__(
        self,
        student: Encoder,
        teachers: Mapping[str, Encoder],
        objective: Objective,
        settings: Train,
        world: World,
    ) -> None:
        self.settings, self.world = settings, world
        self.teachers = {name: teacher.to(world.device) for name, teacher in teachers.items()}
        self.followers = {name: each for name, each in self.teachers.items() if isinstance(each, AverageTeacher)}
        self.precision = _PRECISIONS[settings.precision]
        self.trainee = Trainee(student, objective, self.precision).to(world.device)
        if settings.compile:
            if settings.term_gradients_every:
                keep_compiled_graphs()
            student.compile()
        self.average = make_average(student) if settings.ema is not None else None
        self.optimizer = make_optimizer(self.trainee, settings, objective.learning_rate_factors())
        self.scaler = torch.amp.GradScaler(
            world.device.type, init_scale=_FIRST_LOSS_SCALE, enabled=self.precision is torch.float16
        )
        self.steps_taken = 0
        self.parallel: nn.Module = self.trainee
        if world.size > 1:
            # A tap that no term asks for leaves parameters without gradient, hence the search for unused ones.
            self.parallel = DistributedDataParallel(self.trainee, find_unused_parameters=True)

    @property
    def students(self) -> Mapping[str, Encoder]:
        return {"student": self.average if self.average is not None else self.trainee.student}

    def prepare(self, batches: Iterable[Batch]) -> None:
        objective = self.trainee.objective
        if not objective.samples_to_measure:
            return
        models = {STUDENT: self.trainee.student, **self.teachers}
        for batch in batches:
            presence, (mask,) = presence_in(batch, models, objective), [masks_of(batch, models, objective)]
            seen = {**self._teach(batch), STUDENT: mask.get(STUDENT, {})}
            objective.measure(seen, group=self._group, present=presence)
            if not objective.samples_to_measure:
                break
        objective.fit(self._group)

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        set_learning_rate(self.optimizer, self.settings.learning_rate * progress.learning_rate_factor)
        self.trainee.train()
        self.optimizer.zero_grad(set_to_none=True)
        statistics = self._statistics()
        parts = split(batch, self.settings.accumulate)
        objective = self.trainee.objective
        models = {STUDENT: self.trainee.student, **self.teachers}
        masks = [masks_of(part, models, objective) for part in parts]
        presences = [presence_in(part, models, objective) for part in parts]
        others = self._teach_all(parts, masks, presences)
        shares = shares_of(parts, masks, presences, objective, self._sum_over_ranks, self.world.device)
        terms: dict[str, Tensor] = {}
        looking = self._look_at_gradients(progress)
        for number, (part, other, share, present) in enumerate(zip(parts, others, shares, presences, strict=True)):
            with self._sync_only_at(number == len(parts) - 1):
                values = self.parallel(
                    part["views"][STUDENT],
                    other,
                    part.get("present", {}),
                    group=self._group,
                    progress=progress.share,
                    present=present,
                )
                shared = {label: value * share[label] for label, value in values.items()}
                self._backward(shared, progress, looking)
            for label, value in shared.items():
                terms[label] = terms.get(label, torch.zeros_like(value)) + value.detach()
        figures = looking.figures(self.scaler.get_scale(), self._sum_over_ranks) if looking is not None else {}
        result = self._update(self._sum_over_ranks(terms), progress, figures)
        if result.skipped:
            for buffer, before in statistics:
                buffer.copy_(before)
        objective.settle(taken=not result.skipped)
        return result

    def _backward(self, terms: Mapping[str, Tensor], progress: Progress, looking: TermGradients | None) -> None:
        objective = self.trainee.objective
        if looking is not None:
            weighted = objective.weighted(terms, progress.share)
            looking.add({label: self.scaler.scale(value) for label, value in weighted.items()})
        # DDP averages over ranks what the shares have made a sum.
        self.scaler.scale(objective.total(terms, progress.share) * self.world.size).backward()  # type: ignore[no-untyped-call]

    def _look_at_gradients(self, progress: Progress) -> TermGradients | None:
        every = self.settings.term_gradients_every
        return TermGradients(self.trainee.student) if every and (progress.step + 1) % every == 0 else None

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        # A skipped step must not leave its NaN in the running statistics of a BatchNorm.
        return [(buffer, buffer.clone()) for buffer in self.trainee.statistics()]

    def _update(self, terms: dict[str, Tensor], progress: Progress, figures: Mapping[str, Any]) -> StepResult:
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip_grad if self.settings.clip_grad is not None else float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self.trainee.parameters(), limit)
        loss = self.trainee.objective.total(terms, progress.share)
        skipped = tuple(label for label, value in terms.items() if not bool(torch.isfinite(value)))
        if not skipped and not bool(torch.isfinite(grad_norm)):
            skipped = ("gradient",)
        if not skipped:
            self.scaler.step(self.optimizer)
            self.steps_taken += 1
            if self.average is not None and self.settings.ema is not None:
                update_average(self.average, self.trainee.student, self.settings.ema, self.steps_taken)
            for follower in self.followers.values():
                follower.follow(self.trainee.student, self.steps_taken)
                self._share_statistics(follower)
        self.scaler.update()  # in float16 a skipped step also halves the loss's scale
        scheduled = self.trainee.objective.scheduled(progress.share)
        return StepResult(loss, terms, grad_norm.detach(), skipped, scheduled, figures)

    def _share_statistics(self, follower: AverageTeacher) -> None:
        """A BatchNorm's statistics are each rank's own until the next forward pass, but the teacher is one for all."""
        if self.world.size > 1:
            for buffer in follower.buffers():
                dist.broadcast(buffer, 0)

    def _teach_all(
        self, parts: list[Batch], masks: list[dict[str, Features]], presences: list[Presence]
    ) -> Iterable[dict[str, Features]]:
        """What the objective gets of each part beside the student: teachers' features, and the batch's own fields.

        One part at a time, but where running statistics of all of them are taken first.
        """
        objective = self.trainee.objective
        if not objective.standardizes:
            return map(self._teach, parts)
        others = [self._teach(part) for part in parts]
        seen = [{**other, STUDENT: mask.get(STUDENT, {})} for other, mask in zip(others, masks, strict=True)]
        objective.observe(seen, group=self._group, present=presences)
        return others

    def _teach(self, part: Batch) -> dict[str, Features]:
        # no_grad, not inference_mode: a projection may be trained on these features.
        taps = self.trainee.objective.taps()
        with (
            torch.no_grad(),
            torch.autocast(self.world.device.type, self.precision, enabled=self.precision is not torch.float32),
        ):
            features = {
                name: features_of(model, part["views"][name], taps.get(name, ()), part.get("present", {}))
                for name, model in self.teachers.items()
            }
        return {**features, BATCH: take_fields(part, self.trainee.objective.fields())}

    @property
    def _group(self) -> dist.ProcessGroup | None:
        return dist.group.WORLD if self.world.size > 1 else None

    def _sum_over_ranks(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.world.size > 1:
            for value in values.values():
                dist.all_reduce(value)
        return values

    def _sync_only_at(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.parallel.no_sync()

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainee": self.trainee.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "followers": {name: follower.state_dict() for name, follower in self.followers.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps_taken": self.steps_taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trainee.load_state_dict(state["trainee"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, follower in self.followers.items():
            follower.load_state_dict(state["followers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(dict(state["scaler"]))
        self.steps_taken = state["steps_taken"]
