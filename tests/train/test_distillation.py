import json
import tarfile

import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

import xmodal
from xmodal.errors import RunError
from xmodal.train.checkpoint import list_checkpoints

QUIET = Console(quiet=True)


@pytest.fixture
def tiny(tiny_recipe):
    """A mapping, with one term that has no scale to overflow."""
    recipe = yaml.safe_load(tiny_recipe.read_text())
    recipe["objective"] = recipe["objective"][:1]
    recipe["train"] |= {"max_steps": 3, "ema": None}
    return recipe


def summary(run):
    return json.loads((run.folder / "summary.json").read_text())


def test_models_handed_over_are_left_as_they_were_and_the_run_can_be_opened_again(tiny, tmp_path):
    teacher = xmodal.create_teacher("sentence", model="sentence-transformers/all-MiniLM-L6-v2")
    torch.manual_seed(0)
    student = xmodal.create_student("image", model="test_efficientnet", weights="random", embed_dim=384, image_size=32)
    hashes = teacher.state_hash(), student.state_hash()
    arguments = {key: tiny[key] for key in ("data", "objective", "train")}
    run = xmodal.distill(teacher=teacher, student=student, out=tmp_path / "run", console=QUIET, **arguments)
    assert (teacher.state_hash(), student.state_hash()) == hashes
    assert run.student.state_hash() != hashes[1]
    again = xmodal.distill(
        teacher=teacher, student=student, out=tmp_path / "run", resume=True, console=QUIET, **arguments
    )
    assert again.student.state_hash() == run.student.state_hash()
    assert run.student.metadata["space"]["teacher"] == teacher.spec


def test_a_frozen_student_handed_over_as_teacher_is_no_teacher_of_its_name(tiny, tmp_path):
    options = {"model": "test_efficientnet", "weights": "random", "image_size": 32}
    teacher = xmodal.create_student("image", **options, embed_dim=8).freeze()  # no teacher is called image
    tiny |= {"teacher": teacher, "student": xmodal.create_student("image", **options, embed_dim=8)}
    tiny["objective"][0]["teacher"] = "image.embedding"
    arguments = {key: tiny[key] for key in ("teacher", "student", "data", "objective", "train")}
    run = xmodal.distill(**arguments, out=tmp_path / "run", console=QUIET)
    assert run.student.metadata["space"]["teacher"]["name"] == "given"


def test_what_changes_and_how_the_terms_agree_is_written_down(tiny, tmp_path):
    tiny["objective"][0]["weight"] = {"from": 0, "to": 1}
    tiny["objective"].append({"loss": "feature_mse", "student": "image.embedding", "teacher": "text.embedding"})
    tiny["train"] |= {"term_gradients_every": 2}
    xmodal.distill(tiny, out=tmp_path / "run", console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["scheduled"] for line in lines] == [{"feature_cosine": {"weight": weight}} for weight in (0, 0.5, 1)]
    assert ["term_gradients" in line for line in lines] == [False, True, False]
    looked = lines[1]["term_gradients"]
    assert set(looked["norms"]) == {"feature_cosine", "feature_mse"}
    assert -1 <= looked["cosines"]["feature_cosine"]["feature_mse"] <= 1
    assert "0 → 1" in (tmp_path / "run" / "report.html").read_text().replace("\u00a0", " ")


def test_stages_go_on_from_each_other_and_are_counted_together(tiny, tmp_path):
    stages = [{}, {"train": {"max_steps": 2, "learning_rate": 1e-12, "weight_decay": 0.0, "clip_grad": 1e-9}}]
    one = xmodal.distill(tiny, out=tmp_path / "one", console=QUIET)
    two = xmodal.distill({**tiny, "stages": stages}, out=tmp_path / "two", console=QUIET)
    first, then = one.student.model.state_dict(), two.student.model.state_dict()
    weights = [name for name, tensor in first.items() if name.endswith("weight") and tensor.ndim > 1]
    for name in weights:
        torch.testing.assert_close(then[name], first[name], rtol=1e-4, atol=1e-6)
    training = summary(two)["training"]
    assert (training["steps"], training["samples"]) == (5, 80)


def test_a_training_that_diverges_stops_says_what_broke_and_keeps_a_checkpoint_from_before(tiny, tmp_path):
    tiny["train"] |= {"max_steps": 30, "learning_rate": 1e30, "schedule": "constant", "warmup": 0.0}
    tiny["train"] |= {"checkpoint_every": 1, "max_nonfinite": 2}
    with pytest.raises(RunError, match=r"3 steps in a row were not finite.*feature_cosine.*from before"):
        xmodal.distill(tiny, out=tmp_path / "run", console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (newest,) = list_checkpoints(tmp_path / "run" / "checkpoints")[-1:]
    assert all(line["loss"] is not None for line in lines if line["step"] <= newest.step)
    assert not (tmp_path / "run" / "student").exists()
    assert "not finite" in (tmp_path / "run" / "train.log").read_text()


def test_a_training_that_ends_amid_failing_steps_is_not_called_finished(tiny, tmp_path):
    tiny["train"] |= {"max_steps": 4, "learning_rate": 1e30, "schedule": "constant", "warmup": 0.0}
    with pytest.raises(RunError, match="not finite"):
        xmodal.distill(tiny, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_wrong_teacher_does_not_spoil_the_folder_for_the_right_one(tiny, tmp_path):
    wrong = {**tiny, "teacher": {"name": "sentence", "model": "sentence-transformers/no-such-model"}}
    with pytest.raises(xmodal.errors.XmodalError, match="no-such-model"):
        xmodal.distill(wrong, out=tmp_path / "run", console=QUIET)
    assert xmodal.distill(tiny, out=tmp_path / "run", console=QUIET).student.embed_dim == 384


def test_pictures_that_do_not_decode_are_replaced_counted_and_named(tiny, tmp_path):

    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(40):
        Image.new("RGB", (40, 40), (number * 6, 0, 0)).save(source / f"p{number:02}.png")
        (source / f"p{number:02}.txt").write_text(f"shade {number}")
    for number in (3, 17):
        (source / f"p{number:02}.png").write_bytes(b"not a picture")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for path in sorted(source.iterdir()):
            tar.add(path, path.name)
    tiny["data"] |= {"train": str(tmp_path / "s.tar"), "max_bad_fraction": 0.5}
    tiny["train"]["max_steps"] = 5
    run = xmodal.distill(tiny, out=tmp_path / "run", console=QUIET)
    named = {json.loads(line)["key"] for line in (run.folder / "bad_samples.jsonl").read_text().splitlines()}
    assert named == {"p03", "p17"}
    assert summary(run)["training"]["bad_samples"] == 4
