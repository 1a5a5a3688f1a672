"""The tiled forms against the dense ones: the same numbers, from less memory, time and precision where asked."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from xmodal.losses import clip_contrastive, siglip, soft_contrastive, soft_sigmoid, tiled_statistics
from xmodal.losses.tiled_softmax import tiled_softmax


class Problem:
    """Arguments of a loss in float64, student first; ``tensors`` are those that may have gradient."""

    def __init__(self, loss, num, width, *, scale=5.0, teachers=1, hard_weight=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def some(wide):
            return torch.randn(num, wide, generator=generator, dtype=torch.float64)

        self.loss, self.rows = loss, [some(width), some(width)]
        self.scale, self.bias = torch.tensor([scale, -scale / 2], dtype=torch.float64)
        self.options, self.teacher = {}, ()
        if loss is soft_contrastive:
            self.teacher = tuple([some(width + k) for k in range(teachers)] for _ in range(2))
            scales = [scale * (1 + k / 2) for k in range(teachers)]
            self.options = {"teacher_scale": scales, "hard_weight": hard_weight}
        elif loss is soft_sigmoid:
            self.teacher = some(width + 1), some(width + 1)
            self.options = {"teacher_scale": 2 * scale, "teacher_bias": -scale}

    @property
    def tensors(self):
        return [*self.rows, self.scale, *([self.bias] if self.loss in (siglip, soft_sigmoid) else [])]

    def value(self, dtype=torch.float64, wanted=(True, True, True, True), **options):
        """The value, and the leaves that it has gradient for."""
        leaves = [x.to(dtype).clone().requires_grad_(w) for x, w in zip(self.tensors, wanted, strict=False)]
        teacher = [[x.to(dtype) for x in side] if isinstance(side, list) else side.to(dtype) for side in self.teacher]
        side = "student" if self.teacher else "logit"
        numbers = dict(zip((f"{side}_scale", f"{side}_bias"), leaves[2:], strict=False))
        value = self.loss(*leaves[:2], *teacher, **self.options, **numbers, **options)
        return value, [x for x in leaves if x.requires_grad]

    def __call__(self, *arguments, **options):
        value, leaves = self.value(*arguments, **options)
        return value.detach(), torch.autograd.grad(value, leaves)


LOSSES = [clip_contrastive, siglip, soft_contrastive, soft_sigmoid]
of_every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def assert_same(tiled, dense, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(tiled[0], dense[0], rtol=rtol, atol=atol)
    for mine, other in zip(tiled[1], dense[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)


def error(found, wanted):
    """Of a gradient, relative, as lengths of the whole."""
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@given(
    loss=st.sampled_from(LOSSES),
    num=st.integers(1, 17),
    width=st.integers(1, 6),
    tile=st.integers(1, 20),
    teachers=st.integers(1, 3),
    hard_weight=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.floats(0.1, 100) | st.sampled_from([1e3, 1e4]),
    wanted=st.tuples(*[st.booleans()] * 4),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=120, deadline=None)
def test_tiles_change_neither_value_nor_any_gradient(
    loss, num, width, tile, teachers, hard_weight, scale, wanted, seed
):
    problem = Problem(loss, num, width, scale=scale, teachers=teachers, hard_weight=hard_weight, seed=seed)
    assume(any(wanted[: len(problem.tensors)]))
    # the rounding of a logit, in proportion to the scale, is an error of every share
    assert_same(problem(wanted=wanted, tile=tile), problem(wanted=wanted), atol=1e-12 * max(1, scale))


@pytest.fixture
def without_a_common_base(monkeypatch):
    """What other devices do always."""
    monkeypatch.setattr("xmodal.losses.tiled_softmax.common_bases", lambda scales, num: None)


@pytest.mark.parametrize("loss", [clip_contrastive, soft_contrastive], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("tile", [1, 4, 5, 12])
def test_sums_below_each_ones_own_maximum_give_the_same(without_a_common_base, loss, tile):
    problem = Problem(loss, 12, 5, scale=30.0, teachers=2, hard_weight=0.2 if loss is soft_contrastive else 0)
    assert_same(problem(tile=tile), problem())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [100.0, 700.0, 1e4])
@pytest.mark.parametrize("best", [1.0, 0.1, -0.9])
def test_no_row_is_lost_below_a_common_base(dtype, scale, best):
    """Cosines between −1 and ``best``, all different: a shift fixed at the scale would leave rows without a sum."""
    num = 9
    angles = torch.acos(torch.linspace(-1, best, num * num, dtype=torch.float64)[torch.randperm(num * num)][: 2 * num])
    problem = Problem(soft_contrastive, num, 2, scale=scale, hard_weight=0.5)
    flat = torch.stack([angles.cos(), angles.sin()], -1)
    problem.rows = [torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(num, 2) + 1e-3 * flat[:num], flat[num:]]
    problem.teacher = [problem.rows[0].flip(0)], [problem.rows[1].flip(1)]
    value, found = problem(dtype, tile=4)
    wanted, expected = problem()
    rounding = scale * torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), wanted, rtol=20 * rounding, atol=20 * rounding)
    assert all(error(mine, other) < 50 * rounding for mine, other in zip(found[:2], expected[:2], strict=True))


def test_a_common_base_is_used_where_it_can_be_and_only_there():
    def lost(scale, cosines):
        bits = torch.tensor(scale / math.log(2))
        base = tiled_statistics.common_bases([bits], 1000)
        return not tiled_statistics.in_range((torch.tensor(cosines) * bits - base).exp2(), num=1000)

    assert not lost(40.0, [-1.0, 1.0])
    assert not lost(100.0, [-0.2, 1.0])
    assert lost(100.0, [-0.5, 1.0])


@pytest.mark.parametrize("has_base", [True, False])
def test_a_student_that_is_nearly_there_keeps_the_digits_of_its_small_gradient(has_base, request):
    """Not so if log-sum-exps were kept as one number, large as the logits: ten times the dense form's error."""
    if not has_base:
        request.getfixturevalue("without_a_common_base")
    problem = Problem(clip_contrastive, 100, 32, scale=100.0)
    problem.rows[1] = problem.rows[0] + problem.rows[1]
    _, wanted = problem()
    tiled, dense = (error(problem(torch.float32, **options)[1][0], wanted[0]) for options in ({"tile": 32}, {}))
    assert tiled < 5 * dense


@of_every_loss
def test_in_float32_the_gradient_is_as_good_as_the_dense_forms(loss):
    problem = Problem(loss, 150, 16, scale=20.0)
    _, wanted = problem()
    tiled, dense = problem(torch.float32, tile=64), problem(torch.float32)
    assert tiled[0].dtype == torch.float32
    for mine, other, expected in zip(tiled[1], dense[1], wanted, strict=True):
        assert error(mine, expected) < max(3 * error(other, expected), 2e-6)


class Watch(TorchDispatchMode):
    """Sizes of all tensors made, and names of the operations."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.names.append(str(function))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return result


@of_every_loss
@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_memory_grows_with_the_batch_and_not_with_its_square(loss, products):
    num, tile = 512, 16
    problem = Problem(loss, num, 4)
    with Watch() as dense:
        problem(torch.float32)
    with Watch() as tiled:
        problem(torch.float32, tile=tile, products=products)
    assert dense.largest >= num * num
    assert tiled.largest <= 2 * num * tile  # the first rows' logits, of student and teacher


@pytest.mark.parametrize("loss", [siglip, soft_sigmoid], ids=lambda loss: loss.__name__)
def test_sigmoids_take_one_pass(loss):
    problem = Problem(loss, 12, 5)
    with Watch() as watch:
        problem(tile=4)
    assert watch.names.count("aten.mm.out") == 9 * (1 if loss is siglip else 2)


@of_every_loss
def test_no_product_is_taken_for_a_side_without_gradient(loss):
    problem = Problem(loss, 12, 5)
    counts = []
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        with Watch() as watch:
            value, leaves = problem.value(wanted=(*wanted, False, False), tile=4)
            if leaves:
                torch.autograd.grad(value, leaves)
        counts.append(watch.names.count("aten.addmm_.default"))
    assert counts == [18, 9, 9, 0]


def test_what_the_backward_pass_needs_again_is_kept_for_the_first_rows():
    problem = Problem(clip_contrastive, 12, 5)
    for tile, products in ((4, 9 + 6), (12, 1)):
        with Watch() as watch:
            problem(tile=tile)
        assert watch.names.count("aten.mm.out") == products


@of_every_loss
def test_nothing_is_kept_without_gradient(loss):
    problem = Problem(loss, 64, 4)
    with Watch() as watch, torch.no_grad():
        value, _ = problem.value(tile=8)
    assert watch.largest < 64 * 8
    torch.testing.assert_close(value, problem()[0])


@of_every_loss
def test_a_gradient_can_be_taken_twice_and_in_proportion(loss):
    value, leaves = Problem(loss, 7, 3).value(tile=3)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    second = torch.autograd.grad(-2.5 * value, leaves)
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(-2.5 * x, y)


@of_every_loss
def test_a_second_derivative_is_refused(loss):
    value, leaves = Problem(loss, 7, 3).value(tile=3)
    (gradient, *_) = torch.autograd.grad(value.square(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_soft_and_hard_part_come_from_one_pass_each_with_its_gradient():
    problem = Problem(soft_contrastive, 9, 4, hard_weight=0.5)
    student = [x.requires_grad_() for x in (*problem.rows, problem.scale)]
    teacher = [(problem.teacher[0][0], problem.teacher[1][0], problem.options["teacher_scale"][0])]
    soft, hard = tiled_softmax(*student, teacher, tile=4, products="float32", group=None)
    for part, hard_weight in ((soft, 0.0), (hard, 1.0)):
        problem.options["hard_weight"] = hard_weight
        found = part.detach(), torch.autograd.grad(part, student, retain_graph=True)
        assert_same(found, problem())


def test_one_tensor_may_stand_on_the_students_and_the_teachers_side():
    """An image student against its teacher's texts, which stand for the teacher's images as well."""
    image, text = Problem(clip_contrastive, 9, 4).rows
    image.requires_grad_()
    found = []
    for tile in (None, 4):
        value = soft_contrastive(image, text, text, text, student_scale=20.0, teacher_scale=20.0, tile=tile)
        found.append((value.detach(), torch.autograd.grad(value, [image])))
    assert_same(*found)


@pytest.mark.parametrize(("scale", "bound"), [(14.0, 0.01), (100.0, 0.03)])
@of_every_loss
def test_bfloat16_products_cost_as_little_of_the_gradient_as_is_said(loss, scale, bound):
    problem = Problem(loss, 200, 64, scale=scale)
    problem.rows[1] = problem.rows[0] + 2 * problem.rows[1]  # as pairs of a trained student
    value, found = problem(torch.float32, tile=64, products="bfloat16")
    wanted, expected = problem()
    torch.testing.assert_close(value.double(), wanted, rtol=0.01, atol=1e-3)
    assert all(error(mine, other) < bound for mine, other in zip(found[:2], expected[:2], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bfloat16_products_are_zero_at_equality_and_finite_at_any_scale(dtype):
    x, y = (z.to(dtype).requires_grad_() for z in Problem(clip_contrastive, 9, 4).rows)
    for scale in (1.0, 100.0, 1e4):
        scales = {"student_scale": scale, "teacher_scale": scale, "tile": 4, "products": "bfloat16"}
        value = soft_contrastive(x, y, x, y, **scales)
        assert value.item() == 0
        assert value.dtype == dtype
        for gradient in torch.autograd.grad(value, (x, y)):
            assert gradient.abs().max() < 1e-6 * scale
        value = soft_contrastive(x, y, y, x.flip(0), **scales)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (x, y)))


@of_every_loss
def test_rows_too_short_or_long_to_be_squared_have_directions_all_the_same(loss):
    problem = Problem(loss, 6, 4)
    _, wanted = problem()
    length = torch.tensor([1e-25, 1e25, 1.0, 1e-30, 1e19, 1e-19], dtype=torch.float64).unsqueeze(1)
    problem.rows[0] = problem.rows[0] * length
    _, found = problem(torch.float32, tile=4)
    torch.testing.assert_close(found[0].double() * length, wanted[0], rtol=1e-4, atol=1e-5)


def test_the_first_call_does_not_import_the_compiler():
    """It would, through a custom operation's dispatcher: a second and 150 MB."""
    program = """
import sys, torch
from xmodal.losses import soft_contrastive
x = torch.eye(3, requires_grad=True)
soft_contrastive(x, x, x, x, student_scale=1.0, teacher_scale=2.0, tile=2).backward()
sys.exit("torch._dynamo.symbolic_convert" in sys.modules or "sympy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=300).returncode == 0


def test_a_compiled_callers_graph_does_not_hold_the_tiles(without_shape_checks, unchecked):
    counts = []

    def backend(graph, inputs):
        counts.append(sum(len(module.graph.nodes) for module in graph.modules() if hasattr(module, "graph")))
        return graph.forward

    def loss(image, text):
        return unchecked(clip_contrastive)(normalize(image, dim=-1), text, logit_scale=3.0, tile=2)

    for num in (4, 40):
        torch.compiler.reset()
        torch.compile(loss, fullgraph=True, backend=backend)(*torch.randn(2, num, 3, requires_grad=True))
    assert counts[0] == counts[1] > 0


@of_every_loss
@pytest.mark.parametrize("scale", [0.0, -3.0])
@pytest.mark.parametrize("wanted", [(False, True, True), (True, False, True), (False, False, True), (True, True, True)])
def test_a_scale_that_has_learned_its_way_to_zero_has_a_gradient_to_come_back_by(loss, scale, wanted):
    """A tensor's value is nobody's to look at; with frozen images its gradient comes along with that of the texts."""
    problem = Problem(loss, 12, 5)
    problem.scale = torch.tensor(scale, dtype=torch.float64)
    tiled, dense = problem(wanted=(*wanted, False), tile=5), problem(wanted=(*wanted, False))
    assert_same(tiled, dense)
    assert tiled[1][-1] != 0


def test_a_scale_in_one_element_is_a_scale(without_shape_checks, unchecked):
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor([10.0], dtype=torch.float64, requires_grad=True)
    found = unchecked(clip_contrastive)(image, text, logit_scale=scale, tile=2)
    torch.testing.assert_close(found, clip_contrastive(image, text, logit_scale=10.0))
    assert torch.autograd.grad(found, scale)[0].shape == (1,)
