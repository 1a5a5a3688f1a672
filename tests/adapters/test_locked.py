"""Locked towers: all but the linear head stays as it is, and costs no backward pass."""

import pytest
import torch
from rich.console import Console
from torch.nn.modules.batchnorm import _BatchNorm

import xmodal
from xmodal import create_student, load_student, save_student
from xmodal.errors import AdapterError, RecipeError
from xmodal.recipe import Train
from xmodal.train.ema import make_average, update_average
from xmodal.train.optimizer import make_optimizer

TEXTS = ["a sad cat", "the big red car on grass", "dog"]


def locked_image(**options):
    given = {"model": "test_efficientnet", "weights": "random", "embed_dim": 8, "image_size": 32, "drop_path": 0.3}
    return create_student("image", **given, locked=True, **options)


def locked_text(folder, **options):
    given = {"model": str(folder), "num_layers": 2, "embed_dim": 8, "max_length": 16, "dropout": 0.5, **options}
    return create_student("text", **given, locked=True)


def views(student, **raw):
    samples = [dict(zip(raw, row, strict=True)) for row in zip(*raw.values(), strict=True)]
    return student.preprocess.collate([student.preprocess(sample) for sample in samples])


@pytest.fixture(params=["image", "text"])
def student_and_inputs(request, tiny_bert, picture):
    torch.manual_seed(0)
    if request.param == "image":
        student = locked_image()
        return student, views(student, image=[picture(seed) for seed in range(3)]), "image"
    student = locked_text(tiny_bert)
    return student, views(student, text=TEXTS), "text"


def test_only_the_linear_head_is_in_the_optimizer(student_and_inputs):
    student, _, _ = student_and_inputs
    optimizer = make_optimizer(student, Train(max_steps=1))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {tuple(parameter.shape) for parameter in held} == {(8, student.features_dim), (8,)}


def test_the_body_stays_in_eval_mode_and_the_head_follows(student_and_inputs):
    student, _, _ = student_and_inputs
    head = set(student.linear_head.modules())
    for mode in (True, False, True):
        student.train(mode)
        assert student.training == mode
        assert {module.training for module in head} == {mode}
        assert not any(module.training for module in student.model.modules() if module not in head)


def test_training_it_changes_the_head_alone_and_draws_no_dropout(student_and_inputs):
    student, inputs, modality = student_and_inputs
    student.train()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    first, second = (student(inputs, [f"{modality}.embedding"])[f"{modality}.embedding"] for _ in range(2))
    assert torch.equal(first, second)
    optimizer = make_optimizer(student, Train(max_steps=1))
    first.square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    head = {id(parameter) for parameter in student.linear_head.parameters()}
    assert changed == {name for name, parameter in student.named_parameters() if id(parameter) in head}


def test_the_graph_begins_at_the_head(student_and_inputs):
    student, inputs, modality = student_and_inputs
    features = student.train()(inputs, [f"{modality}.embedding", f"{modality}.features", f"{modality}.tokens"])
    assert features[f"{modality}.embedding"].requires_grad
    assert not features[f"{modality}.features"].requires_grad
    assert not features[f"{modality}.tokens"].requires_grad
    nodes, queue = set(), [features[f"{modality}.embedding"].grad_fn]
    while queue:
        node = queue.pop()
        nodes.add(type(node).__name__)
        queue += [following for following, _ in node.next_functions if following is not None]
    assert nodes == {"AddmmBackward0", "TBackward0", "AccumulateGrad"}


def test_its_features_are_those_of_the_same_student_unlocked(student_and_inputs):
    student, inputs, modality = student_and_inputs
    taps = [f"{modality}.embedding", f"{modality}.features", f"{modality}.hidden.1"]
    ours = student.train()(inputs, taps)
    student.locked = False
    theirs = student.eval()(inputs, taps)
    for tap in taps:
        torch.testing.assert_close(ours[tap], theirs[tap], atol=1e-6, rtol=1e-6)


def test_an_average_leaves_the_locked_part_byte_for_byte(student_and_inputs):
    student, _, _ = student_and_inputs
    with torch.no_grad():
        next(student.model.parameters())[0].fill_(-0.0)  # a mean with itself would make it 0.0
    average = make_average(student)
    with torch.no_grad():
        next(student.linear_head.parameters()).add_(1)
    update_average(average, student, 0.5, 1)
    assert not torch.equal(next(average.linear_head.parameters()), next(student.linear_head.parameters()))
    still = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    ours, theirs = average.state_dict(), student.state_dict()
    assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in still)


def test_a_class_students_head_is_its_classifier(picture):
    student = create_student("image", model="test_efficientnet", weights="random", num_classes=5, locked=True)
    inputs = views(student, image=[picture(seed) for seed in range(2)])
    features = student(inputs, ["logits", "image.embedding"])
    assert features["logits"].requires_grad
    assert not features["image.embedding"].requires_grad
    assert (student.learns("logits"), student.learns("image.embedding")) == (True, False)


def test_a_locked_text_student_has_a_head_even_where_it_is_square(tiny_bert):
    student = locked_text(tiny_bert, embed_dim=24)
    assert [tuple(parameter.shape) for parameter in student.parameters() if parameter.requires_grad] == [
        (24, 24),
        (24,),
    ]


def test_without_a_head_nothing_would_learn(tiny_bert):
    with pytest.raises(AdapterError, match=r"no head.*Give embed_dim"):
        locked_text(tiny_bert, embed_dim=None)
    with pytest.raises(AdapterError, match=r"no head.*Give embed_dim"):
        create_student("image", model="test_efficientnet", weights="random", locked=True)


def test_a_folder_gives_back_a_locked_student(student_and_inputs, tmp_path):
    student, _, modality = student_and_inputs
    again = load_student(save_student(student, tmp_path / "student"))
    assert again.state_hash() == student.state_hash()
    assert again.train().locked
    assert sum(parameter.requires_grad for parameter in again.parameters()) == 2
    assert again.spec["name"] == modality


@pytest.fixture
def towers(tiny_bert):
    image = {"model": "test_efficientnet", "weights": "random", "image_size": 32, "locked": True}
    text = {"model": str(tiny_bert), "num_layers": 2, "max_length": 16, "locked": True}
    return {"name": "clip", "image": image, "text": text, "embed_dim": 8}


def recipe_of(towers, **train):
    loss = {"loss": "clip_contrastive", "student": ["image.embedding", "text.embedding"], "logit_scale": 10}
    return {
        "student": towers,
        "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0},
        "objective": [loss],
        "train": {"max_steps": 3, "batch_size": 8, "learning_rate": 0.01, **train},
    }


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_trains_projections_only(towers, tmp_path, ema):
    recipe = recipe_of(towers, **({"ema": ema} if ema else {}))
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    trained = run.student
    torch.manual_seed(0)
    begun = create_student(**towers)
    theirs = dict(begun.named_parameters())
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, theirs[name]) == (not theirs[name].requires_grad), name
    assert {name for name, parameter in trained.named_parameters() if parameter.requires_grad} == {
        "image.model.classifier.weight",
        "image.model.classifier.bias",
        "text.head.0.linear.weight",
        "text.head.0.linear.bias",
    }


def test_a_term_on_what_is_locked_is_a_mistake(towers, tmp_path):
    recipe = recipe_of(towers)
    recipe["teacher"] = {"name": "sentence", "model": towers["text"]["model"]}
    hidden = {"student": "text.hidden.1", "teacher": "text.hidden.1", "mask": "text.mask"}
    recipe["objective"].append({"loss": "feature_mse", **hidden})
    with pytest.raises(RecipeError) as caught:
        xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    (mistake,) = caught.value.mistakes
    assert mistake.path == "objective.1.student"
    assert "text.hidden.1" in mistake.message
    assert "locked" in mistake.message
    recipe["student"] = {**towers, "text": {**towers["text"], "locked": False}}
    xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))


def test_a_stage_can_unlock_what_another_has_locked(towers, tmp_path):
    recipe = recipe_of(towers)
    recipe["stages"] = [{}, {"student": {"image": {**towers["image"], "locked": False}}}]
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    torch.manual_seed(0)
    begun = create_student(**towers)
    norms = [name for name, module in begun.image.named_modules() if isinstance(module, _BatchNorm)]
    ours, theirs = run.student.image.state_dict(), begun.image.state_dict()
    assert not any(torch.equal(ours[f"{name}.running_mean"], theirs[f"{name}.running_mean"]) for name in norms)
    assert all(
        torch.equal(one, other)
        for one, other in zip(run.student.text.model.parameters(), begun.text.model.parameters(), strict=True)
    )
