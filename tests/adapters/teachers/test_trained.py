import json
import shutil

import pytest
import torch
from rich.console import Console

import xmodal
from xmodal import create_student, create_teacher, load_student, save_student
from xmodal.adapters.teachers.trained import trained_problem
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of
from xmodal.errors import AdapterError, RecipeError
from xmodal.evaluate import evaluate
from xmodal.evaluate.space import Space
from xmodal.recipes import check, load_recipe

ZOO = "emoji-text-to-image"
TEXTS = ["a sad cat", "the big red car on grass"]


def image_student():
    return create_student("image", model="test_efficientnet", weights="random", embed_dim=12, image_size=32)


@pytest.fixture
def image_folder(tmp_path):
    torch.manual_seed(1)
    student = image_student()
    return save_student(student, tmp_path / "big" / "student", {"space": None})


@pytest.fixture
def clip_folder(tmp_path, tiny_bert):
    torch.manual_seed(2)
    student = create_student(
        "clip",
        image={"model": "test_efficientnet", "weights": "random", "image_size": 32},
        text={"model": str(tiny_bert), "num_layers": 2, "max_length": 16},
        embed_dim=8,
    )
    return save_student(student, tmp_path / "towers")


@pytest.mark.parametrize("given", ["run", "student"])
def test_it_is_the_student_frozen_with_its_taps_and_preprocessing(image_folder, picture, given):
    teacher = create_teacher("trained", folder=str(image_folder.parent if given == "run" else image_folder))
    student = load_student(image_folder)
    assert teacher.frozen
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert (teacher.taps(), teacher.embed_dim) == (student.taps(), 12)
    pictures = [picture(seed) for seed in range(3)]
    taps = ["image.embedding", "image.features", "image.map"]
    for ours, theirs in zip(
        teacher.encode(image=pictures, taps=taps).values(),
        student.encode(image=pictures, taps=taps).values(),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_two_towers_teach_by_both_and_only_the_one_asked_for_runs(clip_folder, picture):
    teacher = create_teacher("trained", folder=str(clip_folder))
    student = load_student(clip_folder)
    assert teacher.modalities == ("image", "text")
    taps = ["image.embedding", "text.embedding", "text.hidden.1", "text.attention.-1"]
    given = {"image": [picture(seed) for seed in range(2)], "text": TEXTS}
    ours, theirs = (encoder.encode(**given, taps=taps) for encoder in (teacher, student))
    assert all(torch.equal(ours[tap], theirs[tap]) for tap in taps)
    teacher.image.model.forward = teacher.image.model.forward_features = None  # it would not run
    teacher.encode(text=TEXTS)


def test_a_student_of_the_zoo_teaches_by_its_name(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path))
    teacher = create_teacher("trained", folder=ZOO)
    assert teacher.encode(image=[picture()])["image.embedding"].shape == (1, 384)
    assert teacher.spec == {"name": "trained", "folder": ZOO}


def test_a_folder_goes_before_a_name_of_the_zoo(image_folder, tmp_path, monkeypatch):
    shutil.copytree(image_folder, tmp_path / ZOO)
    monkeypatch.chdir(tmp_path)
    assert create_teacher("trained", folder=ZOO).embed_dim == 12


def test_its_identity_is_of_weights_and_preprocessing_not_of_the_place(image_folder, tmp_path):
    first = create_teacher("trained", folder=str(image_folder)).identity()
    moved = tmp_path / "elsewhere"
    shutil.copytree(image_folder, moved)
    assert create_teacher("trained", folder=str(moved)).identity() == first == load_student(image_folder).identity()
    student = load_student(moved)
    with torch.no_grad():
        next(student.parameters()).add_(1e-3)
    save_student(student, moved)
    assert create_teacher("trained", folder=str(moved)).identity() != first
    config = json.loads((image_folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (image_folder / "config.json").write_text(json.dumps(config))
    assert create_teacher("trained", folder=str(image_folder)).identity() != first


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("bigg", ["no folder 'bigg'", "zoo", "Nearest: big"]),
        ("emoji-text-to-imag", ["Nearest: emoji-text-to-image"]),
        ("empty", ["holds no student"]),
        ("running", ["no student yet", "--resume"]),
    ],
)
def test_a_wrong_folder_is_said_before_anything_is_loaded(image_folder, tmp_path, monkeypatch, folder, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "recipe.resolved.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert all(word in str(trained_problem(folder)) for word in words), trained_problem(folder)
    with pytest.raises(AdapterError):
        create_teacher("trained", folder=folder)
    (mistake,) = check(load_recipe("emoji-text-to-image", [f"teacher={{name: trained, folder: {folder}}}", "objective=["
        "{loss: feature_mse, student: image.embedding, teacher: image.embedding}]"]))  # fmt: skip
    assert mistake.path == "teacher.folder"


def test_a_module_of_the_users_own_is_to_be_handed_over(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"module_class": "mine.Net", "modality": "image", "taps": {}}))
    with pytest.raises(AdapterError, match=r"distill\(teacher=xmodal.load_student"):
        create_teacher("trained", folder=str(tmp_path))


def test_a_recipe_knows_its_taps_before_it_is_loaded(image_folder):
    from xmodal.recipes.models import outline

    known = outline("teacher", {"name": "trained", "folder": str(image_folder)})
    assert known.has("image.features")
    assert not known.has("text.embedding")


def recipe_of(folder, **more):
    return {
        "teacher": {"name": "trained", "folder": folder},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
        "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0, **more},
        "objective": [
            {"loss": "feature_mse", "student": "image.embedding", "teacher": "image.embedding"},
            {"loss": "feature_mse", "student": "image.map", "teacher": "image.map"},
        ],
        "train": {"max_steps": 2, "batch_size": 8},
    }


def test_a_student_learns_from_it_and_evaluation_makes_it_again(image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = xmodal.distill(recipe_of("big"), out="small", console=Console(quiet=True))
    student = run.student
    assert student.embed_dim == 12
    assert student.metadata["space"]["teacher"] == {"name": "trained", "folder": "big"}
    side = Space(student).teacher_side("image")
    assert side.encoder.state_hash() == load_student(image_folder).state_hash()
    metrics = evaluate("small", "package://emoji/names-*.tar", tasks=["agreement"]).metrics["data"]
    assert "teacher_agreement" in metrics
    monkeypatch.chdir(image_folder)
    with pytest.raises(AdapterError, match="no folder 'big' in"):
        Space(student).teacher_side("image")


def test_texts_are_found_in_the_space_of_the_teachers_own_teacher(tmp_path, monkeypatch):
    """The student of a student of a sentence encoder lies in the sentence encoder's space."""
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(ZOO, val="package://emoji/names-*.tar")
    recipe["objective"] = recipe["objective"][:1]
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert "text_to_image_recall@10" in run.metrics["val"]
    side = Space(run.student).side("text")
    assert (side.encoder.spec["name"], side.tap) == ("sentence", "text.embedding")


def test_taps_that_it_has_not_are_said_of_the_recipe(image_folder, tmp_path):
    recipe = recipe_of(str(image_folder))
    recipe["objective"][0]["teacher"] = "text.embedding"
    with pytest.raises(RecipeError, match=r"teacher 'trained'"):
        xmodal.distill(recipe, out=tmp_path / "run")


def test_its_cache_is_as_good_as_it_and_is_named_by_its_identity(image_folder, tmp_path):
    recipe = recipe_of(str(image_folder))
    online = xmodal.distill(recipe, out=tmp_path / "online", console=Console(quiet=True)).student
    recipe["teacher"]["cached"] = str(tmp_path / "cache")
    cache(jobs_of(load_recipe(recipe)))
    identity = load_student(image_folder).identity()
    assert all(identity in path.name for path in (tmp_path / "cache").rglob("*.safetensors"))
    cached = xmodal.distill(recipe, out=tmp_path / "cached", console=Console(quiet=True)).student
    for one, other in zip(online.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)  # it is stored as float16
