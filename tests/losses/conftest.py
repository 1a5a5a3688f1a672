"""Shapes of arguments are checked at every call; a well-formed call of every loss, made from its signature."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

with install_import_hook("xmodal.losses", "beartype.beartype"):
    import xmodal.losses
from xmodal.losses.registration import Input

SIZES = {
    "batch": 6,
    "length": 5,
    "heads": 3,
    "vocab": 7,
    "dim": 4,
    "channels": 4,
    "height": 4,
    "width": 4,
    "bank": 3,
    "k": 3,
}
REQUIRED = {"scale": 5.0, "bias": -2.0, "temperature": 2.0, "heads": 2}
"""Values of options that have no default, by the last word of their name."""
MORE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "feature_mse": [{"normalize": True}],
    "jensen_shannon": [{"beta": 0.0}, {"beta": 1.0}],
    "instance_graph": [{"node_weight": 1.0}],
    "contrastive_representation": [{"symmetric": False}, {"bank": True}],
    "soft_contrastive": [{"hard_weight": 0.3}, {"hard_weight": 0.3, "tile": 4}],
}
"""What a loss does otherwise on request, beside its defaults. A loss with ``tile`` is called with tiles, too."""

Nested = Any  # a tensor, or a sequence or mapping of tensors


@dataclass(frozen=True)
class Call:
    """Arguments of one loss."""

    inputs: tuple[Nested, ...]
    keywords: Mapping[str, Any]
    masks: Mapping[str, Nested] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """Every tensor of the inputs, in order."""
        return [x for nested in self.inputs for x in flat(nested)]

    def map(self, change: Callable[[Input, Tensor], Tensor], inputs: Sequence[Input]) -> Call:
        """The same call with every float tensor of its inputs changed."""
        changed = (
            each(tensors, lambda x, given=given: change(given, x) if x.is_floating_point() else x)
            for given, tensors in zip(inputs, self.inputs, strict=True)
        )
        return replace(self, inputs=tuple(changed))


@dataclass(frozen=True)
class Case:
    """A registered loss and some options of it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> xmodal.losses.Loss:
        return xmodal.losses.LOSSES[self.name]

    def __call__(self, call: Call, **more: Any) -> Tensor:
        return self.loss.function(*call.inputs, **{**call.keywords, **call.masks, **more})

    def unchecked(self, call: Call) -> Tensor:
        """The loss as users have it: without the shape checks of these tests."""
        return inspect.unwrap(self.loss.function)(*call.inputs, **call.keywords, **call.masks)

    def call(self, seed: int = 0, *, dtype: torch.dtype = torch.float64, masked: bool = False, **sizes: int) -> Call:
        """A call on random tensors; ``sizes`` are those of named axes, such as ``batch=1``."""
        make = Maker(torch.Generator().manual_seed(seed), {**SIZES, **sizes})
        inputs = tuple(make.nested(given) for given in self.loss.inputs)
        inputs = DOMAINS.get(self.name, lambda *same: same)(*inputs)
        masks = {given.name: make.mask(given) for given in self.loss.masks} if masked else {}
        call = Call(inputs, self.keywords(make), masks)
        return call.map(lambda _, x: x.to(dtype), self.loss.inputs)

    def keywords(self, make: Maker) -> dict[str, Any]:
        options = {**self.options}
        for name, option in self.loss.options.items():
            if option.required:
                options.setdefault(name, REQUIRED[name.rpartition("_")[2]])
        for name in self.loss.state:
            if name.endswith("_fusion"):
                options[name] = fusion
            elif options.get(name):
                options[name] = make.tensor(("bank", "dim"))
        return options

    def equal(self, call: Call) -> Call:
        """The student says what the teacher says, and asks as softly."""
        num = self.loss.num_student
        student = {"top_k_kl": spread_tail}.get(self.name, lambda *teacher: teacher[:num])
        own = [name for name in call.keywords if name.startswith("student_")]
        same = {name: call.keywords[name.replace("student_", "teacher_")] for name in own}
        copies = (each(nested, torch.clone) for nested in student(*call.inputs[num:]))
        return replace(call, inputs=(*copies, *call.inputs[num:]), keywords={**call.keywords, **same})


@dataclass
class Maker:
    """Random tensors for the axes that an annotation names."""

    generator: torch.Generator
    sizes: Mapping[str, int]

    def shape(self, axes: Sequence[str]) -> list[int]:
        return [self.size(axis) for axis in axes]

    def size(self, axis: str) -> int:
        """Axes of any number are the batch's; the student's and the teacher's are alike unless told."""
        if axis in self.sizes:
            return self.sizes[axis]
        plain = axis.lstrip("_").removeprefix("student_").removeprefix("teacher_")
        return self.sizes["batch" if axis.startswith("*") or axis == "..." else plain]

    def tensor(self, axes: Sequence[str], dtype: str = "float") -> Tensor:
        if dtype == "int":
            return torch.randint(self.sizes["vocab"], self.shape(axes), generator=self.generator)
        return torch.randn(self.shape(axes), generator=self.generator, dtype=torch.float64)

    def nested(self, given: Input) -> Nested:
        if "tensor" in given.forms:
            return self.tensor(given.axes, given.dtype)
        axes = ["batch", "dim"] if given.axes[-1] == "..." else given.axes
        if "sequence" in given.forms:
            return [self.tensor(axes) for _ in range(2)]
        return {modality: self.tensor(axes) for modality in ("image", "text")}

    def mask(self, given: Input) -> Nested:
        def one() -> Tensor:
            mask = torch.rand(self.shape(given.axes), generator=self.generator) > 0.4
            mask[0] = True  # something is valid
            return mask

        return one() if "tensor" in given.forms else {modality: one() for modality in ("image", "text")}


def fusion(rows: Tensor) -> Tensor:
    """A fixed map to half the width."""
    width = rows.shape[-1]
    return rows @ torch.arange(1.0, width * (width // 2) + 1, dtype=rows.dtype).reshape(width, -1).cos()


def top_k(student: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    """The first three words of some distribution over all words, and the mass of the rest."""
    every = (1.5 * student.flip(-1)).log_softmax(-1)
    log_probs, indices = every.topk(3, -1)
    return student, log_probs, indices, (1 - log_probs.exp().sum(-1)).log()


def spread_tail(log_probs: Tensor, indices: Tensor, tail: Tensor) -> list[Tensor]:
    """Logits at temperature 2 of a distribution whose top and tail these are."""
    others = (tail - math.log(SIZES["vocab"] - 3)).unsqueeze(-1).repeat_interleave(SIZES["vocab"], -1)
    return [2.0 * others.scatter(-1, indices, log_probs)]


DOMAINS: dict[str, Callable[..., tuple[Nested, ...]]] = {
    "attention_kl": lambda *scores: tuple(score.softmax(-1) for score in scores),
    "top_k_kl": top_k,
}
"""Losses whose inputs are no arbitrary numbers: what makes them well-formed."""


def each(nested: Nested, change: Callable[[Tensor], Tensor]) -> Nested:
    if isinstance(nested, Mapping):
        return {key: change(x) for key, x in nested.items()}
    return change(nested) if isinstance(nested, Tensor) else [change(x) for x in nested]


def flat(nested: Nested) -> list[Tensor]:
    if isinstance(nested, Mapping):
        return list(nested.values())
    return [nested] if isinstance(nested, Tensor) else list(nested)


def all_cases() -> Iterator[Case]:
    for name in xmodal.losses.LOSSES:
        yield Case(name)
        if "tile" in xmodal.losses.LOSSES[name].options:
            yield Case(name, {"tile": 4})
        yield from (Case(name, options) for options in MORE_OPTIONS.get(name, []))


CASES = list(all_cases())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES, ids=lambda case: "-".join([case.name, *map(str, case.options)]))


@pytest.fixture
def unchecked() -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """A loss as users have it: without the shape checks of the tests."""
    return inspect.unwrap


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """The compiler cannot see through them, and helpers have them too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
