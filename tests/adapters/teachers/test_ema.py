import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import xmodal
from xmodal import create_student, create_teacher
from xmodal.adapters.teachers.ema import AverageTeacher
from xmodal.data.cache.recipe import jobs_of
from xmodal.errors import AdapterError, RecipeError, RunError
from xmodal.objective import Objective
from xmodal.recipe import Term, Train
from xmodal.recipes import check, load_recipe
from xmodal.schemes import SCHEMES, Offline, Progress
from xmodal.train.build import build_parts, build_scheme
from xmodal.train.distributed import World

CPU = World(torch.device("cpu"))
DECAY = 0.9
RANKS = Path(__file__).with_name("ema_ranks.py")


@pytest.fixture
def student():
    torch.manual_seed(0)
    return create_student(
        "image", model="test_efficientnet", weights="random", embed_dim=8, image_size=32, drop_path=0.5
    )


@pytest.fixture
def batch(student, picture):
    samples = [student.preprocess({"image": picture(seed)}) for seed in range(8)]
    view = student.preprocess.collate(samples)
    return {"key": [str(row) for row in range(8)], "views": {"student": view, "teacher": view}}


def make_scheme(student, *, teacher=None, **settings):
    term = Term(loss="feature_mse", student="image.embedding", teacher="image.embedding")
    options = {"max_steps": 4, "learning_rate": 0.01, **settings}
    teacher = teacher or AverageTeacher(student, DECAY, warmup=False)
    return Offline(student, {"teacher": teacher}, Objective([term]), Train(**options), CPU)


def test_it_begins_as_the_student_with_its_taps_and_preprocessing(student, picture):
    teacher = AverageTeacher(student)
    pictures = [picture(seed) for seed in range(3)]
    assert (teacher.taps(), teacher.embed_dim, teacher.modalities) == (student.taps(), 8, ("image",))
    assert teacher.preprocess is student.preprocess
    taps = ["image.embedding", "image.map", "image.hidden.-1"]
    ours, theirs = teacher.encode(image=pictures, taps=taps), student.encode(image=pictures, taps=taps)
    assert all(torch.equal(ours[tap], theirs[tap]) for tap in taps)


def test_after_each_step_it_is_the_average_that_torch_makes(student, batch):
    scheme = make_scheme(student)
    average = scheme.followers["teacher"].average
    theirs = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY), use_buffers=False
    )
    theirs.update_parameters(student)  # its first update copies
    for step in range(3):
        scheme.step(batch, Progress(step, 4))
        theirs.update_parameters(student)
    for one, other in zip(average.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert average.state_hash() != student.state_hash()


def test_it_has_neither_dropout_nor_gradient(tiny_bert):
    student = create_student("text", model=str(tiny_bert), num_layers=2, max_length=16, dropout=0.5).train()
    teacher = AverageTeacher(student).train()
    inputs = student.preprocess.collate([student.preprocess({"text": text}) for text in ("a sad cat", "dog")])
    ours = [teacher(inputs, ["text.embedding"])["text.embedding"] for _ in range(2)]
    theirs = [student(inputs, ["text.embedding"])["text.embedding"] for _ in range(2)]
    assert torch.equal(*ours)
    assert not torch.equal(*theirs)
    assert teacher.frozen
    assert not ours[0].requires_grad


def test_the_optimizer_and_the_student_have_nothing_of_it(student, batch):
    scheme = make_scheme(student)
    own = {id(parameter) for parameter in scheme.followers["teacher"].parameters()}
    assert not own & {id(parameter) for group in scheme.optimizer.param_groups for parameter in group["params"]}
    assert not own & {id(parameter) for parameter in scheme.trainee.parameters()}


def test_warmup_forgets_the_first_weights_soon(student):
    slow, quick = (AverageTeacher(student, 0.9999, warmup=warmup) for warmup in (False, True))
    with torch.no_grad():
        student.model.classifier.bias.fill_(100.0)
    for teacher in (slow, quick):
        teacher.follow(student, 1)
    assert slow.average.model.classifier.bias.max() < 1
    assert quick.average.model.classifier.bias.min() == pytest.approx(100, rel=0.2)


def test_a_step_that_is_not_taken_moves_nothing(student, batch):
    scheme = make_scheme(student)
    before = scheme.followers["teacher"].state_hash()
    broken = copy.deepcopy(batch)
    broken["views"]["student"]["image"][0] = float("nan")
    assert scheme.step(broken, Progress(0, 4)).skipped
    assert scheme.followers["teacher"].state_hash() == before


def test_a_scheme_restored_from_its_state_goes_on_bit_for_bit(student, batch):
    scheme = make_scheme(student, ema=0.5)
    for step in range(2):
        torch.manual_seed(step)
        scheme.step(batch, Progress(step, 4))
    state = copy.deepcopy(scheme.state_dict())
    again = make_scheme(copy.deepcopy(student), ema=0.5, teacher=AverageTeacher(copy.deepcopy(student), DECAY, False))
    again.load_state_dict(state)
    for one in (scheme, again):
        for step in range(2, 4):
            torch.manual_seed(step)
            one.step(batch, Progress(step, 4))
    assert again.followers["teacher"].state_hash() == scheme.followers["teacher"].state_hash()
    assert again.trainee.student.state_hash() == scheme.trainee.student.state_hash()


def test_two_ranks_have_the_teacher_of_one_and_the_same_on_both():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(RANKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RANKS.parents[3])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["two"]["terms"] == pytest.approx(found["one"]["terms"], rel=1e-5)
    assert found["two"]["average"] == pytest.approx(found["one"]["average"], rel=1e-4, abs=1e-6)
    assert found["hashes"][0] == found["hashes"][1]  # with a BatchNorm, whose statistics are of each rank's rows


def recipe_of(**more):
    return {
        "teachers": {
            "words": {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"},
            "mean": {"name": "ema", "decay": 0.9},
        },
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0},
        "objective": [
            {"loss": "feature_cosine", "student": "image.embedding", "teacher": "words:text.embedding"},
            {
                "loss": "feature_cosine",
                "student": "image.embedding",
                "teacher": "mean:image.embedding",
                "projection": {"name": "mlp", "hidden": 16},
            },
            {"loss": "feature_mse", "student": "image.map", "teacher": "mean:image.map"},
        ],
        "train": {"max_steps": 3, "batch_size": 8},
        **more,
    }


def test_it_teaches_beside_others_and_the_student_lies_in_their_space(tmp_path):
    recipe = recipe_of()
    recipe["data"]["val"] = "package://emoji/names-*.tar"
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert run.student.embed_dim == 384
    assert run.student.metadata["space"]["teacher"]["name"] == "sentence"
    assert "text_to_image_recall@10" in run.metrics["val"]
    terms = [json.loads(line)["terms"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(value > 0 for value in terms[-1].values())


def test_alone_it_gives_the_student_no_space_and_nothing_to_agree_with(tmp_path):
    recipe = recipe_of(teacher={"name": "ema"})
    del recipe["teachers"]
    for term in recipe["objective"]:
        term["teacher"] = term["teacher"].rpartition(":")[2]
    recipe["objective"] = recipe["objective"][1:]
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert run.student.metadata["space"] is None
    recipe |= {"evaluate": {"tasks": ["agreement"]}, "data": {**recipe["data"], "val": "package://emoji/names-*.tar"}}
    with pytest.raises(RecipeError, match="only its own average"):
        xmodal.distill(recipe, out=tmp_path / "other", console=Console(quiet=True))


def test_at_each_stage_it_begins_as_the_student_then_is():
    recipe = load_recipe(recipe_of())
    first = build_parts(recipe, {})
    with torch.no_grad():
        for parameter in first.student.parameters():
            parameter.mul_(1.1)
    second = build_parts(recipe, {"words": first.teachers["words"]}, (first.student, first.objective))
    assert second.teachers["mean"].average.state_hash() == first.student.state_hash()
    assert list(second.teachers) == ["words", "mean"]


@pytest.mark.parametrize(
    ("teacher", "path", "words"),
    [
        ({"name": "ema", "cached": True}, "teachers.mean.cached", "after every step"),
        ({"name": "ema", "decay": 1.0}, "teachers.mean.decay", "below 1"),
        ({"name": "ema", "decai": 0.9}, "teachers.mean.decai", "teachers.mean.decay"),
        ({"name": "ensemble", "teachers": [{"name": "ema"}]}, "teachers.mean.teachers.0", "no member"),
    ],
)
def test_what_it_cannot_be_is_said_before_anything_is_loaded(teacher, path, words):
    recipe = recipe_of()
    recipe["teachers"]["mean"] = teacher
    mistakes = {mistake.path: mistake.message for mistake in check(load_recipe(recipe))}
    assert words in mistakes[path]


def test_its_taps_are_the_students():
    recipe = recipe_of()
    recipe["objective"][1]["teacher"] = "mean:text.embedding"
    (mistake,) = check(load_recipe(recipe))
    assert mistake.path == "objective.1.teacher"
    assert "student 'image'" in mistake.message


def test_it_is_not_made_apart_from_a_run_and_not_cached():
    with pytest.raises(AdapterError, match=r"cannot be made, cached or evaluated apart.*trained"):
        create_teacher("ema")
    assert {job.teacher["name"] for job in jobs_of(load_recipe(recipe_of()))} == {"sentence"}


def test_a_scheme_that_does_not_keep_it_is_refused(monkeypatch):
    recipe = load_recipe(recipe_of())
    monkeypatch.setattr(SCHEMES["offline"], "keeps_averages", False)
    with pytest.raises(RunError, match="'mean' is the student's moving average"):
        build_scheme(recipe, build_parts(recipe, {}), CPU)
