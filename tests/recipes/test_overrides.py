"""key=value, mappings and stages change a recipe by the same rules."""

from __future__ import annotations

import pytest

from xmodal.recipes.overrides import apply_overrides


def changed(base, *overrides):
    result, mistakes = apply_overrides(base, overrides[0] if isinstance(overrides[0], dict) else overrides)
    assert mistakes == []
    return result


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({"train": {"seed": 0}}, "train.seed=1", {"train": {"seed": 1}}),
        ({}, "train.learning_rate=2e-3", {"train": {"learning_rate": 0.002}}),
        (
            {"objective": [{"loss": "a"}, {"loss": "b"}]},
            "objective.1.weight=2",
            {"objective": [{"loss": "a"}, {"loss": "b", "weight": 2}]},
        ),
        ({"tasks": ["a"]}, "tasks.1=b", {"tasks": ["a", "b"]}),
        ({"objective": [{"loss": "a"}]}, "objective.1.loss=b", {"objective": [{"loss": "a"}, {"loss": "b"}]}),
        ({"data": {"train": "a"}}, "data.train=[b, c]", {"data": {"train": ["b", "c"]}}),
        ({"data": {"train": "a"}}, "data.train=*.tar", {"data": {"train": "*.tar"}}),
        ({"data": {"train": "a"}}, "data.train=x/{0..2}.tar", {"data": {"train": "x/{0..2}.tar"}}),
        ({"data": {"train": "a"}}, "data.augment={flip: 0.5}", {"data": {"train": "a", "augment": {"flip": 0.5}}}),
        ({"data": {"val": {"a": "x"}}}, "data.val={b: y}", {"data": {"val": {"b": "y"}}}),
        ({"data": {"val": {"unseen names": "x"}}}, "data.val.unseen names=y", {"data": {"val": {"unseen names": "y"}}}),
        ({"student": {"name": "a", "x": 1}}, "student={name: b}", {"student": {"name": "b"}}),
        ({"student": {"name": "a", "x": 1}}, "student={x: 2, y: 3}", {"student": {"name": "a", "x": 2, "y": 3}}),
        ({"objective": [{"loss": "a", "p": 1}]}, "objective.0={loss: b}", {"objective": [{"loss": "b"}]}),
        ({"scheme": "offline"}, "scheme.depth=2", {"scheme": {"name": "offline", "depth": 2}}),
        ({"description": "a"}, "description=b=c", {"description": "b=c"}),
        ({"train": {"ema": 0.9}}, "train.ema=", {"train": {"ema": None}}),
        ({"train": {"epochs": 8}}, "train.max_steps=5", {"train": {"max_steps": 5}}),
        ({"train": {"max_steps": 8}}, "train.epochs=5", {"train": {"epochs": 5}}),
        ({"train": {"epochs": 8}}, "train={max_steps: 5}", {"train": {"max_steps": 5}}),
        ({"teacher": {"name": "a"}}, "teachers={b: {name: c}}", {"teachers": {"b": {"name": "c"}}}),
    ],
)
def test_a_key_takes_the_value(base, override, expected):
    assert changed(base, override) == expected
    key, _, _ = override.partition("=")
    place = expected
    for part in key.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    if not isinstance(place, dict):
        assert changed(base, {key: place}) == expected, "a mapping in Python does the same"


def test_nested_mappings_and_dotted_keys_are_the_same():
    base = {"train": {"seed": 0, "epochs": 1}, "data": {"augment": {"flip": 0}}}
    dotted = changed(base, {"train.seed": 1, "data.augment.flip": 0.5})
    nested = changed(base, {"train": {"seed": 1}, "data": {"augment": {"flip": 0.5}}})
    assert dotted == nested == {"train": {"seed": 1, "epochs": 1}, "data": {"augment": {"flip": 0.5}}}


def test_the_base_stays_as_it_was():
    base = {"train": {"seed": 0}, "objective": [{"loss": "a"}]}
    apply_overrides(base, ["train.seed=1", "objective.0.loss=b", "objective.1.loss=c"])
    assert base == {"train": {"seed": 0}, "objective": [{"loss": "a"}]}


def test_two_keys_that_exclude_one_another_stay_where_both_are_given():
    result = changed({"train": {"epochs": 1}}, "train.epochs=2", "train.max_steps=5")
    assert result == {"train": {"epochs": 2, "max_steps": 5}}, "the schema complains about it"


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("train.seed", "train.seed", "write key=value"),
        ("=3", "=3", "write key=value"),
        ("train..seed=3", "train..seed", "is not a dotted key"),
        ("train.betas=[0.9,", "train.betas", "is not YAML: line 1"),
        ("data.train={0..2}.tar", "data.train", "quote it: data.train="),
        ("data.train.x=3", "data.train.x", "data.train is 'a', which has no keys of its own"),
        ("objective.2.loss=a", "objective.2", "entries 0 to 0; 1 would add one"),
        ("objective.first.loss=a", "objective.first", "entries 0 to 0"),
        ("student.x={1: 2}", "student.x", "the key 1"),
    ],
)
def test_what_cannot_be_applied_is_said_by_its_key(override, path, message):
    base = {"data": {"train": "a"}, "objective": [{"loss": "a"}], "train": {}, "student": {}}
    result, mistakes = apply_overrides(base, [override, "train.epochs=3"])
    assert [mistake.path for mistake in mistakes] == [path]
    assert message in mistakes[0].message
    assert result["train"] == {"epochs": 3}, "the others are applied all the same"


def test_the_quoting_that_is_advised_works():
    _, mistakes = apply_overrides({}, ["data.train={0..2}.tar"])
    advised = mistakes[0].message.partition("quote it: ")[2]
    shell_word = advised.replace('"', "")  # what the shell leaves of data.train="'…'"
    assert changed({}, shell_word) == {"data": {"train": "{0..2}.tar"}}
