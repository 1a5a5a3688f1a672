"""Recipes by name, path, mapping; stages; and everything that can go wrong with a file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from xmodal.errors import RecipeError, RecipeFileError, UnknownNameError
from xmodal.plain import read_yaml, write_yaml
from xmodal.recipes import check, copy_recipe, list_recipes, load_recipe, recipe_text, stages


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_ships_is_without_mistakes(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert check(recipe) == []


def test_the_baseline_differs_only_in_what_the_teacher_gives():
    recipe, baseline = load_recipe("emoji-text-to-image"), load_recipe("emoji-text-to-image-without-teacher")
    assert recipe.baseline == baseline.name
    assert baseline.all_teachers() == {}
    assert (recipe.data, recipe.train) == (baseline.data, baseline.train)
    same = {"model", "weights"}
    assert {key: recipe.student.options[key] for key in same} == {
        key: baseline.student.options["image"][key] for key in same
    }
    assert baseline.student.options["image"]["image_size"] == recipe.data.image_size


def test_name_path_mapping_and_recipe_are_one_recipe(tmp_path):
    name = "emoji-text-to-image"
    file = copy_recipe(name, tmp_path / "deep" / f"{name}.yaml")
    assert file.read_text() == recipe_text(name)
    recipe = load_recipe(name)
    assert load_recipe(file) == load_recipe(str(file)) == load_recipe(recipe) == recipe
    assert load_recipe({"name": name, **read_yaml(file.read_text())}) == recipe


@pytest.mark.parametrize("number", ["2e-3", "2.0e-3", ".002", "'2e-3'"])
def test_every_way_to_write_a_number_is_that_number(number, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(recipe_text("emoji-text-to-image").replace("1.5e-3", number))
    assert load_recipe(file).train.learning_rate == 0.002
    assert load_recipe("emoji-text-to-image", [f"train.learning_rate={number}"]).train.learning_rate == 0.002


def test_a_recipe_is_named_after_its_file_unless_it_says_its_name(tmp_path):
    file = copy_recipe("emoji-text-to-image", tmp_path / "mine.yaml")
    assert load_recipe(file).name == "mine"
    assert load_recipe(file, ["name=yours"]).name == "yours"
    resolved = tmp_path / "recipe.resolved.yaml"
    resolved.write_text(load_recipe(file).to_yaml())
    assert load_recipe(resolved).name == "mine"


def test_an_unknown_name_points_to_the_nearest_and_to_paths():
    with pytest.raises(UnknownNameError) as caught:
        load_recipe("emoji-txt-to-image")
    assert "Nearest: emoji-text-to-image" in str(caught.value)
    assert "must end in .yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "holds the list ['a', 'b']"),
        (b"just words", "holds the text 'just words'"),
        (b"student: {name: image\n", "line 2"),
        (b"student: 1\nstudent: 2\n", "'student' is given twice"),
        (b"train: \xff\xfe", "not UTF-8"),
        (b"1: 2", "the key 1"),
        (b"a: &a [*a]", "nested"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(content, words, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeFileError) as caught:
        load_recipe(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    copy_recipe("emoji-text-to-image", tmp_path / "emoji.yaml")
    with pytest.raises(RecipeFileError) as caught:
        load_recipe(tmp_path / "emojis.yaml")
    assert str(tmp_path) in str(caught.value)
    assert "Nearest there: emoji.yaml" in str(caught.value)
    with pytest.raises(RecipeFileError, match=r"leave out \.yaml"):
        load_recipe("emoji-text-to-image.yaml")
    with pytest.raises(RecipeFileError, match="does not exist"):
        load_recipe(tmp_path / "nowhere" / "a.yaml")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> str:  # root may read everything, so a mode would not do
        raise PermissionError(errno.EACCES, "Permission denied")

    file = copy_recipe("emoji-text-to-image", tmp_path / "mine.yaml")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RecipeFileError, match=r"mine\.yaml cannot be read: Permission denied"):
        load_recipe(file)


def test_a_folder_and_a_foreign_ending_are_no_recipes(tmp_path):
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(RecipeFileError, match="is a folder"):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(RecipeFileError, match=r"must end in \.yaml"):
        load_recipe(tmp_path / "a.json")


def test_copying_overwrites_nothing_and_ends_in_yaml(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    with pytest.raises(RecipeFileError, match="exists already"):
        copy_recipe("emoji-text-to-image", file)
    assert file.read_text() == "mine"
    with pytest.raises(RecipeFileError, match=r"must end in \.yaml"):
        copy_recipe("emoji-text-to-image", tmp_path / "mine.txt")
    with pytest.raises(UnknownNameError):
        copy_recipe("emoji", tmp_path / "other.yaml")


def test_without_stages_a_recipe_is_its_own_only_stage():
    recipe = load_recipe("emoji-text-to-image")
    assert stages(recipe) == [recipe]


def test_stages_change_the_recipe_one_after_another():
    overrides = [
        {"train": {"max_steps": 5}},
        {"train.learning_rate": 1e-5, "data": {"augment": {"flip": 0.5}}},
        {"objective": [{"loss": "feature_mse", "student": "image.embedding", "teacher": "text.embedding"}]},
    ]
    recipe = load_recipe("emoji-text-to-image", {"stages": overrides})
    first, second, third = stages(recipe)
    assert (first.train.max_steps, first.train.epochs, first.train.learning_rate) == (5, None, 0.0015)
    assert (second.train.max_steps, second.train.learning_rate, second.data.augment.flip) == (5, 1e-5, 0.5)
    assert second.data.augment.rotation == first.data.augment.rotation
    assert [term.loss for term in third.objective] == ["feature_mse"]
    assert third.train == second.train
    assert {stage.stages for stage in (first, second, third)} == {None}
    assert {stage.name for stage in (first, second, third)} == {"emoji-text-to-image"}
    assert check(recipe) == []


def test_mistakes_of_a_stage_are_said_once_under_its_number():
    overrides = [{"train.learning_rate": -1}, {"train": {"sed": 1}}, {"data.window": 8}, {"stages": []}]
    with pytest.raises(RecipeError) as caught:
        stages(load_recipe("emoji-text-to-image", {"stages": overrides}))
    assert [mistake.path for mistake in caught.value.mistakes] == [
        "stages.0.train.learning_rate",
        "stages.1.train.sed",
        "stages.3.stages",
    ]


def test_packages_add_recipes_through_an_entry_point(tmp_path, monkeypatch):
    file = tmp_path / "theirs.yaml"
    file.write_text(
        write_yaml(load_recipe("emoji-text-to-image", {"name": ""}).to_dict()).replace(
            "name: emoji-text-to-image", "", 1
        )
    )
    distribution = tmp_path / "theirs-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text("[xmodal.recipes]\ntheirs = theirs_recipes:file\n")
    (tmp_path / "theirs_recipes.py").write_text(f"from pathlib import Path\nfile = Path({str(file)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    from xmodal.recipes import loading

    monkeypatch.setattr(loading.RECIPES, "_looked_outside", False)
    monkeypatch.setattr(loading.RECIPES, "_entries", dict(loading.RECIPES._entries))
    assert "theirs" in list_recipes()
    assert load_recipe("theirs").name == "theirs"
