"""``xmodal recipes``."""

from __future__ import annotations

import json

from xmodal.plain import read_yaml
from xmodal.recipes import list_recipes, load_recipe, recipe_text

NAME = "emoji-text-to-image"


def test_list_has_every_recipe_with_its_description(xmodal):
    lines = xmodal("recipes", "list").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == list_recipes()
    assert all(line.endswith(load_recipe(name).description) for line, name in zip(lines, list_recipes(), strict=True))
    assert json.loads(xmodal("recipes", "list", "--format", "json").out) == {
        name: load_recipe(name).description for name in list_recipes()
    }


def test_show_prints_the_file_or_the_recipe_as_it_would_run(xmodal):
    assert xmodal("recipes", "show", NAME).out == recipe_text(NAME)
    changed = xmodal("recipes", "show", NAME, "train.max_steps=5").out
    assert load_recipe(read_yaml(changed)) == load_recipe(NAME, ["train.max_steps=5"])
    assert xmodal("recipes", "show", NAME, "--resolved").out == load_recipe(NAME).to_yaml()


def test_a_copy_is_checked_and_shown_as_a_file(xmodal, tmp_path):
    file = tmp_path / "mine.yaml"
    outcome = xmodal("recipes", "copy", NAME, file)
    assert outcome.out == f"{file}   (run it: xmodal distill {file} --out runs/mine)\n"
    assert (
        xmodal("recipes", "check", file).out
        == f"{file}: no mistakes.   sentence → image: feature_cosine, soft_contrastive\n"
    )
    assert load_recipe(read_yaml(xmodal("recipes", "show", file).out)).name == "mine"
    assert xmodal("recipes", "copy", NAME, file).code == 2


def test_check_prints_all_mistakes_of_both_kinds(xmodal):
    for overrides in (["train.learnig_rate=1", "student.model=resnet19"], ["data.slots=5", "student.model=resnet19"]):
        outcome = xmodal("recipes", "check", NAME, *overrides)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith(f"xmodal: recipe {NAME} has 2 mistakes; nothing was loaded.\n")
        assert all(override.partition("=")[0] in outcome.err for override in overrides)
