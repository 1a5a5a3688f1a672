"""What holds for every registered loss. A new one is covered by being registered."""

from __future__ import annotations

import doctest
import inspect
from dataclasses import replace

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from xmodal.errors import LossError
from xmodal.losses import LOSSES
from xmodal.objective.options import check_options

CATALOGUE = {
    "response": "kl_divergence reverse_kl jensen_shannon soft_cross_entropy logit_mse decoupled_kd",
    "vocabulary": "universal_logit top_k_kl",
    "feature": "feature_mse feature_cosine feature_smooth_l1 feature_cosine_smooth_l1",
    "relation": "gram_matrix flow_of_solution rkd_distance rkd_angle similarity_preserving "
    "probabilistic_knowledge_transfer contrastive_representation",
    "attention": "attention_transfer attention_scores attention_kl attention_relation",
    "graph": "instance_graph layer_graph neighbour_graph graph_propagation multimodal_graph",
    "contrastive": "clip_contrastive siglip soft_contrastive soft_sigmoid interactive_contrastive gradient_matching "
    "augmented_feature",
}
# Their least value is not 0, where the student says what the teacher says or anywhere.
NEVER_ZERO = {
    "soft_cross_entropy",
    "clip_contrastive",
    "siglip",
    "contrastive_representation",
    "interactive_contrastive",
    "augmented_feature",
}


def test_the_catalogue_is_whole():
    assert sorted(LOSSES) == sorted(name for family in CATALOGUE.values() for name in family.split())


def students(case, call, *, requires_grad=True):
    """The tensors that the loss may teach, made leaves."""
    pairs = zip(case.loss.inputs, call.inputs, strict=True)
    wanted = [not given.detached for given, nested in pairs for _ in flat(nested)]
    return [x.requires_grad_() for x, own in zip(call.tensors(), wanted, strict=True) if own]


def flat(nested):
    return list(nested.values()) if isinstance(nested, dict) else [nested] if torch.is_tensor(nested) else list(nested)


def value_and_gradients(case, call, function=None):
    leaves = students(case, call)
    value = (function or case)(call)
    return value, torch.autograd.grad(value, leaves, allow_unused=True)


def assert_same(first, second, **tolerance):
    """Values and gradients agree."""
    torch.testing.assert_close(first[0], second[0], **tolerance)
    for x, y in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(x, y, **tolerance)


def test_gradient_agrees_with_finite_differences(case):
    if case.name == "instance_graph":
        return  # its largest edge is a constant to the gradient, by definition: test_graph.py holds it still
    call = case.call(batch=4)
    leaves = students(case, call)
    assert torch.autograd.gradcheck(lambda *_: case(call), leaves)


def test_no_gradient_reaches_the_teacher(case):
    call = case.call()
    for given, nested in zip(case.loss.inputs, call.inputs, strict=True):
        floats = [x.requires_grad_() for x in flat(nested) if x.is_floating_point()]
        if floats:
            gradients = torch.autograd.grad(case(call), floats, allow_unused=True)
            assert all((gradient is None) == given.detached for gradient in gradients), given.name


def test_zero_with_no_gradient_where_the_student_says_what_the_teacher_says(case):
    if case.loss.num_teacher == 0 or case.name in NEVER_ZERO or case.options.get("hard_weight"):
        return
    value, gradients = value_and_gradients(case, case.equal(case.call()))
    assert abs(value.item()) < 1e-12
    for gradient in gradients:
        if case.name == "attention_kl":  # of probabilities: what moves all of a row alike cannot move them
            gradient = gradient - gradient.mean(-1, keepdim=True)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_the_teachers_entropy_is_all_that_is_left_of_a_cross_entropy_where_the_student_is_there(case):
    if case.name == "soft_cross_entropy":
        value, (gradient,) = value_and_gradients(case, case.equal(case.call()))
        assert value > 0
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32(case, dtype):
    halves = case.call(dtype=dtype)
    floats = halves.map(lambda _, x: x.detach().float(), case.loss.inputs)
    value, gradients = value_and_gradients(case, halves)
    wanted, expected = value_and_gradients(case, floats)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wanted, rtol=0, atol=0)
    for half, full in zip(gradients, expected, strict=True):
        torch.testing.assert_close(half, full.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float64])
def test_inputs_of_unlike_precision_are_taken(case, first):
    call = case.call(dtype=torch.bfloat16)  # so that all precisions hold the same numbers
    wanted = case(call.map(lambda _, x: x.double(), case.loss.inputs))
    own = case.loss.inputs[0]
    value = case(call.map(lambda given, x: x.to(first if given is own else torch.float32), case.loss.inputs))
    assert value.dtype == torch.promote_types(first, torch.float32)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-4, atol=1e-6)


def test_float64_stays_float64(case):
    assert case(case.call()).dtype == torch.float64


def test_autocast_changes_nothing(case):
    call = case.call(dtype=torch.float32)

    def cast(call):
        with torch.autocast("cpu", torch.bfloat16):
            return case(call)

    assert_same(value_and_gradients(case, call, cast), value_and_gradients(case, call), rtol=0, atol=0)


@pytest.mark.parametrize("batch", [1, 5])
def test_one_sample_and_an_odd_number_are_batches_too(case, batch):
    value, gradients = value_and_gradients(case, case.call(batch=batch))
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_widths_of_the_student_may_differ_where_the_signature_says_so(case):
    if case.options.get("node_weight"):
        return  # nodes are compared entry by entry
    axes = {axis for given in case.loss.inputs for axis in given.axes if axis.startswith("student_")}
    plain = {axis.removeprefix("student_") for axis in axes}
    sizes = {f"student_{axis}": {"dim": 6, "height": 8, "width": 8}.get(axis, 2) for axis in plain}
    value, gradients = value_and_gradients(case, case.call(**sizes))
    assert value.isfinite()
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", ["duplicates", "zeros", "all zeros", "huge", "one-hot teacher"])
def test_degenerate_inputs_leave_value_and_gradient_finite(case, kind):
    def degenerate(given, x):
        x = x.clone()
        if kind == "duplicates" and len(x) > 1:
            x[1] = x[0]
        elif "zero" in kind:
            x[: 1 if kind == "zeros" else None] = 0
        elif kind == "huge":
            x = 1e4 * torch.where(x > 0, 1.0, -1.0)
        elif kind == "one-hot teacher" and given.detached:
            x = 1e4 * torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).float()
        return x

    call = case.call(dtype=torch.float32)
    if case.name == "attention_kl":  # probabilities: its scores are what may be anything
        call = call.map(lambda given, x: degenerate(given, x.log()).softmax(-1), case.loss.inputs)
    elif case.name == "top_k_kl":
        student = degenerate(case.loss.inputs[0], call.inputs[0])
        certain = kind == "one-hot teacher"
        teacher = [torch.tensor([0.0, -1e4, -1e4]).expand(6, 3), call.inputs[2], torch.full((6,), -float("inf"))]
        call = replace(call, inputs=(student, *(teacher if certain else call.inputs[1:])))
    else:
        call = call.map(degenerate, case.loss.inputs)
    value, gradients = value_and_gradients(case, call)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_nan_in_any_input_is_not_swallowed(case):
    """A run sees a broken teacher or student by a value that is no number."""
    for place, given in enumerate(case.loss.inputs):
        if given.dtype != "float":
            continue
        call = case.call()
        flat(call.inputs[place])[0][2] = float("nan")
        assert case(call).isnan(), given.name


def test_inputs_stay_as_they_were(case):
    call = case.call(masked=True)
    before = [x.clone() for x in call.tensors()]
    value_and_gradients(case, call)
    assert all(torch.equal(x, y) for x, y in zip(call.tensors(), before, strict=True))


def invalid(mask, given, x):
    """Where ``x`` lies at an item that the mask of an input with named axes calls invalid."""
    gone = torch.zeros_like(x, dtype=torch.bool)
    axes = list(given.axes)
    if mask.axes[0].startswith("*"):
        return gone | ~mask.value[(..., *[None] * (x.ndim - mask.value.ndim))]
    for place in range(len(axes)):
        if axes[place] != mask.axes[-1]:
            continue
        shape = [1] * x.ndim
        shape[0], shape[place] = x.shape[0], x.shape[place]
        gone = gone | ~mask.value.reshape(shape)
    return gone


class Mask:
    def __init__(self, given, value):
        self.axes, self.value = given.axes, value


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), 1e30])
def test_an_invalid_item_changes_neither_value_nor_gradient(case, rubbish):
    call = case.call(masked=True)
    if not call.masks:
        return
    masks = {given.name: given for given in case.loss.masks}
    broken, gone = [], []
    for given, nested in zip(case.loss.inputs, call.inputs, strict=True):
        parts = []
        for key, x in nested.items() if isinstance(nested, dict) else enumerate(flat(nested)):
            where = torch.zeros_like(x, dtype=torch.bool)
            for name, mask in call.masks.items():
                value = mask[key] if isinstance(mask, dict) else mask
                side = name.partition("_")[0]
                if side not in ("student", "teacher") or given.name.startswith(side):
                    where = where | invalid(Mask(masks[name], value), given, x)
            parts.append(torch.where(where, rubbish if x.is_floating_point() else 0, x))
            if not given.detached:
                gone.append(where)
        broken.append(dict(zip(nested, parts, strict=True)) if isinstance(nested, dict) else parts)
    broken = [
        parts if isinstance(nested, dict) or not torch.is_tensor(nested) else parts[0]
        for parts, nested in zip(broken, call.inputs, strict=True)
    ]
    assert any(where.any() for where in gone)
    wanted, expected = value_and_gradients(case, call)
    value, gradients = value_and_gradients(case, replace(call, inputs=tuple(broken)))
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    for gradient, other, where in zip(gradients, expected, gone, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-16)
        assert (gradient[where] == 0).all()


def test_masks_matter(case):
    call = case.call(masked=True)
    if call.masks:
        assert case(call) != case(replace(call, masks={}))


def test_a_mask_over_positions_is_the_mean_over_the_valid_ones(case):
    """For losses over ``[*items, dim]``, with two leading axes."""
    call = case.call()
    if [given.axes[0] for given in case.loss.masks] != ["*items"]:
        return
    mask = torch.tensor([[True, True, False], [True, False, False]])
    double = replace(call, inputs=tuple(x.reshape(2, 3, *x.shape[1:]) for x in call.inputs))
    kept = replace(double, inputs=tuple(x[mask] for x in double.inputs))
    torch.testing.assert_close(case(double, mask=mask), case(kept))


def test_nothing_valid_is_zero_and_teaches_nothing(case):
    call = case.call(masked=True)
    if not call.masks:
        return
    none = {
        name: {key: x & False for key, x in mask.items()} if isinstance(mask, dict) else mask & False
        for name, mask in call.masks.items()
    }
    value, gradients = value_and_gradients(case, replace(call, masks=none))
    assert value.item() == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("masked", [False, True])
def test_parts_of_a_batch_combine_exactly_by_what_they_count(case, masked):
    if case.loss.kind != "per_item":
        return
    call = case.call(masked=masked)

    def part(nested, begin, end):
        return nested[begin:end] if torch.is_tensor(nested) else [x[begin:end] for x in nested]

    total = counted = 0.0
    for begin, end in ((0, 1), (1, 3), (3, 6)):
        piece = replace(
            call,
            inputs=tuple(part(nested, begin, end) for nested in call.inputs),
            masks={name: part(mask, begin, end) for name, mask in call.masks.items()},
        )
        count = case.loss.count_items(piece.masks) if piece.masks else end - begin
        total, counted = total + count * case(piece), counted + count
    torch.testing.assert_close(total / counted, case(call), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mask", ["shape", "dtype", "size"])
def test_a_mask_of_another_shape_or_type_is_refused(case, mask):
    call = case.call(masked=True)
    if not call.masks or any(isinstance(given, dict) for given in call.masks.values()):
        return
    change = {"shape": lambda x: x.unsqueeze(-1), "dtype": lambda x: x.float(), "size": lambda x: x[:-1]}[mask]
    name, first = next(iter(call.masks.items()))
    with pytest.raises(LossError, match="mask"):
        case.unchecked(replace(call, masks={**call.masks, name: change(first)}))


def test_tensors_that_do_not_belong_together_are_refused_with_their_sizes(case):
    call = case.call()
    last = max(i for i, given in enumerate(case.loss.inputs) if given.dtype == "float")

    def cut(nested):
        if isinstance(nested, dict):
            return {key: x[:-1] for key, x in nested.items()}
        return nested[:-1] if torch.is_tensor(nested) else [x[:-1] for x in nested]

    wrong = replace(call, inputs=tuple(cut(x) if i == last else x for i, x in enumerate(call.inputs)))
    with pytest.raises(LossError) as caught:
        case.unchecked(wrong)
    assert str(list(flat(wrong.inputs[last])[0].shape)) in str(caught.value)
    stems = {word for given in case.loss.inputs for word in (given.name, *given.name.split("_"))}
    assert any(word in str(caught.value) for word in stems)


def test_a_tensor_of_fewer_axes_is_refused_with_a_clear_message(case):
    """Not by whatever operation meets it first."""
    call = case.call()

    def squeeze(nested):
        if isinstance(nested, dict):
            return {key: x[..., 0] for key, x in nested.items()}
        return nested[..., 0] if torch.is_tensor(nested) else [x[..., 0] for x in nested]

    wrong = replace(call, inputs=(squeeze(call.inputs[0]), *call.inputs[1:]))
    with pytest.raises(LossError, match=r"\["):
        case.unchecked(wrong)


def test_a_recipe_takes_the_numbers_that_the_function_takes(case):
    """So no recipe loads weights only to be told by the loss that its scale is 0."""
    call = case.call()

    def refused(name, number):
        try:
            case.unchecked(replace(call, keywords={**call.keywords, name: number}))
        except LossError as error:
            return name in str(error)
        return False

    for name, option in case.loss.options.items():
        if option.number is None or name == "cached_temperature":  # any but the other temperature is refused
            continue
        numbers = (-0.5, 0.0, 0.5, 1.0, 1.5) if option.may_change else (-1, 0, 1, 2)
        for number in numbers:
            _, mistakes = check_options({name: number}, {name: option}, "objective.0", case.name)
            assert bool(mistakes) == refused(name, number), (name, number)


def test_annotations_say_the_shapes_and_the_scalar_that_comes_back(case):
    checked = jaxtyped(inspect.unwrap(case.loss.function), typechecker=beartype)
    call = case.call()
    assert checked(*call.inputs, **call.keywords).shape == ()
    numbers = replace(call, inputs=(*call.inputs[:-1], "no tensor"))
    with pytest.raises(TypeCheckError):
        checked(*numbers.inputs, **call.keywords)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph_with_the_same_value_and_gradient(case, backend, without_shape_checks):
    torch.compiler.reset()
    call = case.call(dtype=torch.float32, masked=True)
    compiled = torch.compile(case.unchecked, fullgraph=True, backend=backend)
    assert_same(
        value_and_gradients(case, call, compiled),
        value_and_gradients(case, call, case.unchecked),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_docstring_says_formula_and_an_example_that_holds(case):
    doc = inspect.getdoc(case.loss.function)
    # run here, for doctest does not look into functions that the shape checks have wrapped
    globs = {case.name: case.loss.function}
    example = doctest.DocTestParser().get_doctest(doc, globs, case.name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
    assert ".. math::" in doc
    assert "arXiv" in doc or "doi" in doc.lower()
