"""Frozen teachers, one student: the plain scheme."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmodal.adapters.encoder import Encoder, Features
from xmodal.objective import Objective
from xmodal.recipe import Train
from xmodal.schemes.base import SCHEMES, Scheme, StepResult
from xmodal.train.batches import Batch, num_rows, split
from xmodal.train.distributed import World
from xmodal.train.ema import make_average, update_average
from xmodal.train.optimizer import make_optimizer, set_learning_rate

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Low, so that finding the scale at which gradients fit into float16 does not look like a training that broke; it grows.
_FIRST_LOSS_SCALE = 256.0


class Trainee(nn.Module):
    """Everything that is trained, as one module, so that DDP sees every parameter in one forward."""

    def __init__(self, student: Encoder, objective: Objective, precision: torch.dtype) -> None:
        super().__init__()
        self.student, self.objective, self.precision = student, objective, precision

    def forward(
        self, inputs: Mapping[str, Tensor], teachers: Mapping[str, Features], **options: Any
    ) -> dict[str, Tensor]:
        """The terms of the objective on one part of a batch."""
        device = next(iter(inputs.values())).device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not torch.float32):
            features = self.student(inputs, self.objective.taps().get("student", ()))
        values: dict[str, Tensor] = self.objective({"student": features, **teachers}, **options)
        return values


@SCHEMES.register("offline")
class Offline(Scheme):
    """The student learns from teachers that do not change.

    One step over a batch in ``settings.accumulate`` parts and over all ranks has the gradient of the whole batch in
    one part on one rank: each per-item term of a part weighs as much as the part holds of what the term counts.
    """

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
        self.precision = _PRECISIONS[settings.precision]
        self.trainee = Trainee(student, objective, self.precision).to(world.device)
        if settings.compile:
            student.compile()
        self.average = make_average(student) if settings.ema is not None else None
        self.optimizer = make_optimizer(self.trainee, settings)
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

    def step(self, batch: Batch, learning_rate_factor: float) -> StepResult:
        set_learning_rate(self.optimizer, self.settings.learning_rate * learning_rate_factor)
        self.trainee.train()
        self.optimizer.zero_grad(set_to_none=True)
        statistics = self._statistics()
        parts = split(batch, self.settings.accumulate)
        terms: dict[str, Tensor] = {}
        for number, (part, shares) in enumerate(zip(parts, self._shares(parts), strict=True)):
            with self._sync_only_at(number == len(parts) - 1):
                values = self.parallel(part["views"]["student"], self._teach(part), group=self._group)
                shared = {label: value * shares[label] for label, value in values.items()}
                # DDP averages over ranks what the shares have made a sum.
                self.scaler.scale(self.trainee.objective.total(shared) * self.world.size).backward()  # type: ignore[no-untyped-call]
            for label, value in shared.items():
                terms[label] = terms.get(label, torch.zeros_like(value)) + value.detach()
        result = self._update(self._sum_over_ranks(terms))
        if result.skipped:
            for buffer, before in statistics:
                buffer.copy_(before)
        return result

    def _statistics(self) -> list[tuple[Tensor, Tensor]]:
        # A skipped step must not leave its NaN in the running statistics of a BatchNorm.
        return [(buffer, buffer.clone()) for buffer in self.trainee.buffers()]

    def _update(self, terms: dict[str, Tensor]) -> StepResult:
        self.scaler.unscale_(self.optimizer)
        limit = self.settings.clip_grad if self.settings.clip_grad is not None else float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self.trainee.parameters(), limit)
        loss = self.trainee.objective.total(terms)
        skipped = tuple(label for label, value in terms.items() if not bool(torch.isfinite(value)))
        if not skipped and not bool(torch.isfinite(grad_norm)):
            skipped = ("gradient",)
        if not skipped:
            self.scaler.step(self.optimizer)
            self.steps_taken += 1
            if self.average is not None and self.settings.ema is not None:
                update_average(self.average, self.trainee.student, self.settings.ema, self.steps_taken)
        self.scaler.update()  # in float16 a skipped step also halves the loss's scale
        return StepResult(loss, terms, grad_norm.detach(), skipped)

    def _teach(self, part: Batch) -> dict[str, Features]:
        # no_grad, not inference_mode: a projection may be trained on these features.
        taps = self.trainee.objective.taps()
        with (
            torch.no_grad(),
            torch.autocast(self.world.device.type, self.precision, enabled=self.precision is not torch.float32),
        ):
            return {name: teacher(part["views"][name], taps.get(name, ())) for name, teacher in self.teachers.items()}

    def _shares(self, parts: list[Batch]) -> list[dict[str, Tensor]]:
        """For each part, what each term's mean weighs in the whole batch, over all ranks."""
        objective, device = self.trainee.objective, self.world.device
        models: dict[str, Encoder] = {"student": self.trainee.student, **self.teachers}
        counts = []
        for part in parts:
            masks = {name: models[name](part["views"][name], taps) for name, taps in objective.mask_taps().items()}
            counted = objective.counts(masks, num_rows(part))
            row = [torch.as_tensor(counted[label], dtype=torch.float32, device=device) for label in objective.labels]
            counts.append(torch.stack(row))
        table = torch.stack(counts)  # [parts, terms]
        total = self._sum_over_ranks({"counts": table.sum(0)})["counts"].clamp(min=1)
        return [dict(zip(objective.labels, row / total, strict=True)) for row in table]

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
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps_taken": self.steps_taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trainee.load_state_dict(state["trainee"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(dict(state["scaler"]))
        self.steps_taken = state["steps_taken"]
