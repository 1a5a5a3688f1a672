"""What an objective keeps, step by step: filled once, restored, resumed; schedules, and paces of projections."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xmodal.errors import DataError
from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.schemes import Offline, Progress
from xmodal.train.distributed import World

CPU = World(torch.device("cpu"))
EMBEDDING = {"student": "image.embedding", "teacher": "image.embedding"}
CONTRAST = Term(loss="contrastive_representation", **EMBEDDING, projection="linear", bank=20, standardize=True)
TOKENS = Term(loss="feature_mse", student="image.tokens", teacher="image.tokens", mask="image.mask", standardize=True)


@pytest.fixture
def make_scheme(make_encoder, batch):
    def make(*terms, fields=None, **settings):
        student, teacher = make_encoder(), make_encoder(seed=1).freeze()
        models = {"student": student, "teacher": teacher}
        objective = Objective.build(terms, models, batch["views"], fields=fields)
        options = {"max_steps": 9, "learning_rate": 0.1, "clip_grad": None, **settings}
        return Offline(student, {"teacher": teacher}, objective, Train(**options), CPU)

    return make


def bank(scheme):
    return scheme.trainee.objective.terms["contrastive_representation"].bank


def test_a_bank_takes_a_batch_a_step(make_scheme, batch):
    scheme = make_scheme(CONTRAST)
    for step in range(4):
        scheme.step(batch, Progress(step, 4))
        assert bank(scheme).next_row == 8 * (step + 1) % 20
    assert bank(scheme).rows.any(1).all()


class CountCopies(TorchDispatchMode):
    """How many tensors of so many numbers were copied whole."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function in (torch.ops.aten.clone.default, torch.ops.aten.copy_.default):
            self.count += result.numel() == self.numel
        return result


def test_a_step_never_copies_a_bank(make_scheme, batch):
    scheme = make_scheme(CONTRAST.model_copy(update={"bank": 1001}))
    with CountCopies(1001 * 3) as copies:
        scheme.step(batch, Progress())
    assert bank(scheme).next_row == 8
    assert copies.count == 0


def test_a_step_that_is_not_taken_leaves_no_rows_and_no_statistics(make_scheme, batch):
    scheme = make_scheme(CONTRAST, TOKENS)
    scheme.step(batch, Progress())
    before = {name: tensor.clone() for name, tensor in scheme.trainee.state_dict().items()}
    broken = {**batch["views"]["student"], "x": torch.full((8, 4), math.nan)}
    for models in (("student",), ("student", "teacher")):
        views = {**batch["views"], **dict.fromkeys(models, broken)}
        assert scheme.step({**batch, "views": views}, Progress()).skipped
        torch.testing.assert_close(dict(scheme.trainee.state_dict()), before, rtol=0, atol=0)


def test_what_is_kept_is_resumed_bit_for_bit(make_scheme, batch):
    terms = [
        CONTRAST,
        TOKENS.model_copy(update={"weight": Term(loss="a", student="b", weight={"from": 0, "to": 1}).weight}),
    ]
    first = make_scheme(*terms)
    for step in range(3):
        first.step(batch, Progress(step, 5))
    second = make_scheme(*terms)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for scheme in (first, second):
        for step in (3, 4):
            scheme.step(batch, Progress(step, 5))
    torch.testing.assert_close(second.trainee.state_dict(), first.trainee.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("parts", [2, 3])
def test_the_statistics_of_parts_are_those_of_the_batch(make_scheme, batch, parts):
    whole, cut = make_scheme(TOKENS), make_scheme(TOKENS, accumulate=parts)
    for scheme in (whole, cut):
        for step in range(2):
            result = scheme.step(batch, Progress(step, 2))
    assert result.loss > 0
    torch.testing.assert_close(cut.trainee.state_dict(), whole.trainee.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_schedule_goes_by_the_steps_of_its_stage_and_is_told(make_scheme, batch):
    scheme = make_scheme(Term(loss="feature_mse", **EMBEDDING, weight={"from": 0, "to": 2}))
    results = [scheme.step(batch, Progress(step, 5, learning_rate_factor=0.0)) for step in range(5)]
    value = results[0].terms["feature_mse"].item()
    assert [result.loss.item() for result in results] == pytest.approx([share * value for share in (0, 0.5, 1, 1.5, 2)])
    assert [result.scheduled["feature_mse"]["weight"] for result in results] == [0, 0.5, 1, 1.5, 2]
    assert make_scheme(Term(loss="feature_mse", **EMBEDDING)).step(batch, Progress()).scheduled == {}


def test_a_projection_goes_at_its_own_pace(make_scheme, batch):
    def moved(projection):
        term = Term(loss="feature_mse", **EMBEDDING, projection=projection)
        scheme = make_scheme(term)
        before = {name: tensor.clone() for name, tensor in scheme.trainee.state_dict().items()}
        scheme.step(batch, Progress(learning_rate_factor=0.5))
        return {name: tensor - before[name] for name, tensor in scheme.trainee.state_dict().items()}

    usual, slow = moved("linear"), moved({"name": "linear", "learning_rate_factor": 0.1})
    assert any("projections" in name for name in usual)
    for name, change in usual.items():
        wanted = 0.1 * change if "projections" in name else change
        torch.testing.assert_close(slow[name], wanted, rtol=1e-4, atol=1e-7)


def test_paces_are_restored_with_the_optimizer(make_scheme, batch):
    terms = [Term(loss="feature_mse", **EMBEDDING, projection={"name": "mlp", "learning_rate_factor": 3})]
    first, second = make_scheme(*terms), make_scheme(*terms)
    first.step(batch, Progress(learning_rate_factor=0.2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rates = [group["lr"] for group in second.optimizer.param_groups]
    assert rates == pytest.approx([0.02, 0.02, 0.06, 0.06])
    for scheme in (first, second):
        scheme.step(batch, Progress(learning_rate_factor=0.1))
    torch.testing.assert_close(second.trainee.state_dict(), first.trainee.state_dict(), rtol=0, atol=0)


def test_labels_of_the_batch_reach_the_loss_and_a_batch_without_them_is_named(make_scheme, batch):
    term = Term(loss="decoupled_kd", student="image.embedding", teacher=["image.embedding", "batch:label"])
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    values = []
    for accumulate in (1, 3):
        scheme = make_scheme(term, fields={"label": label}, accumulate=accumulate)
        values.append(scheme.step({**batch, "label": label}, Progress()).loss)
    torch.testing.assert_close(*values)
    with pytest.raises(DataError, match=r"needs label of every sample, but one of 0 … 7 has none"):
        make_scheme(term, fields={"label": label}).step(batch, Progress())
