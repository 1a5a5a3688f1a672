"""Shapes of the losses' arguments are checked at every call; one well-formed call of every loss."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

with install_import_hook("xmodal.losses", "beartype.beartype"):
    import xmodal.losses


@dataclass
class Case:
    """A loss's name, inputs of a batch of 6 in float64, and options."""

    name: str
    shapes: list[tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    zero_at_equality: bool = True

    @property
    def loss(self) -> xmodal.losses.Loss:
        return xmodal.losses.LOSSES[self.name]

    def inputs(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in self.shapes]

    def equal_inputs(self) -> list[Tensor]:
        """The student says what the teacher says."""
        inputs = self.inputs()
        num = self.loss.num_teacher
        return [*(x.clone() for x in inputs[-num:]), *inputs[-num:]]

    def __call__(self, inputs: list[Tensor], **more: Any) -> Tensor:
        return self.loss.function(*inputs, **{**self.options, **more})


CASES = [
    Case("kl_divergence", [(6, 5), (6, 5)], {"temperature": 2.0}),
    Case("feature_mse", [(6, 4), (6, 4)]),
    Case("feature_mse", [(6, 4), (6, 4)], {"normalize": True}),
    Case("feature_cosine", [(6, 4), (6, 4)]),
    Case("clip_contrastive", [(6, 4), (6, 4)], {"logit_scale": 5.0}, zero_at_equality=False),
    Case("soft_contrastive", [(6, 4), (6, 4), (6, 3), (6, 3)], {"student_scale": 5.0, "teacher_scale": 7.0}),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: "-".join([case.name, *map(str, case.options)]))


@pytest.fixture
def cases() -> list[Case]:
    return CASES


@pytest.fixture
def unchecked() -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """A loss as users have it: without the shape checks of the tests."""
    return inspect.unwrap


@pytest.fixture(scope="session")
def open_clip_loss() -> ModuleType:
    """open_clip's loss.py alone: importing the whole package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations
    spec = importlib.util.spec_from_file_location(
        "open_clip_loss", Path(package.submodule_search_locations[0]) / "loss.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
