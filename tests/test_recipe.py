"""The typed recipe: what it writes it reads, and its constructors speak plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import RecipeError, XmodalError
from xmodal.plain import read_yaml
from xmodal.recipe import Augment, Data, Evaluate, Recipe, Spec, Term, Train
from xmodal.recipes import load_recipe

texts = st.sampled_from(["2e-3", "no", "~", "a: b", "1:30", "naïve", "…", " "]) | st.text(max_size=8)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
shares = st.floats(0, 1)
shards = texts | st.lists(texts, max_size=2)


def options_beside(model: type) -> st.SearchStrategy[dict[str, Any]]:
    names = st.from_regex(r"\A[a-z_]{1,8}\Z").filter(lambda name: name not in {*dir(model), *model.model_fields})
    return st.dictionaries(names, plain_values, max_size=2)


specs = st.builds(lambda name, options: Spec(name=name, **options), texts, options_beside(Spec))
schedules = st.fixed_dictionaries(
    {"from": st.floats(-9, 9), "to": st.floats(-9, 9)},
    optional={"until": st.floats(0.1, 1), "shape": st.sampled_from(["linear", "cosine"])},
)
mappings = st.dictionaries(texts, texts, max_size=2)
taps = shards | mappings | st.lists(texts | st.lists(texts, max_size=2) | mappings, max_size=2)
terms = st.builds(
    lambda options, **keys: Term(**keys, **options),
    options_beside(Term),
    loss=texts,
    student=taps,
    teacher=st.none() | taps,
    weight=st.floats(allow_nan=False, allow_infinity=False) | schedules,
    mask=st.none() | shards | st.dictionaries(texts, texts | mappings, max_size=2),
    projection=st.none() | texts | specs,
    standardize=st.booleans()
    | st.fixed_dictionaries({"momentum": st.floats(0.1, 1)})
    | st.sampled_from(["running", "whitening", {"method": "phi_s", "samples": 100}]),
    side=st.sampled_from(["student", "teacher"]),
    label=st.none() | texts,
)
augments = st.builds(
    Augment,
    crop_scale=st.none() | st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)),
    flip=shares,
    rotation=st.floats(0, 180),
    hue_jitter=st.floats(0, 0.5),
)
data = st.builds(
    Data,
    train=shards,
    val=st.none() | shards | st.dictionaries(texts, shards, max_size=2),
    text=texts,
    image_size=st.none() | st.integers(8, 999),
    augment=augments,
    num_workers=st.integers(0, 99),
    views=st.none() | st.integers(1, 9),
)
lengths = st.fixed_dictionaries({"epochs": st.floats(0.01, 1e6)}) | st.fixed_dictionaries(
    {"max_steps": st.integers(1, 10**9)}
)
trains = st.builds(
    lambda length, **keys: Train(**length, **keys),
    lengths,
    learning_rate=st.floats(1e-12, 1e3),
    clip_grad=st.none() | st.floats(1e-3, 1e3),
    ema=st.none() | st.floats(0.01, 0.99),
    schedule=st.sampled_from(["one_cycle", "cosine", "linear", "constant"]),
    seed=st.integers(),
    device=st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:3"]),
    compile=st.booleans(),
)
teachers = (
    st.just({})
    | specs.map(lambda spec: {"teacher": spec})
    | st.dictionaries(texts, specs, max_size=2).map(lambda several: {"teachers": several})
)
recipes = st.builds(
    lambda teachers, **keys: Recipe(**teachers, **keys),
    teachers,
    name=st.text(min_size=1, max_size=6),
    description=texts,
    student=specs,
    data=data,
    objective=st.lists(terms, min_size=1, max_size=2),
    scheme=texts | specs,
    train=trains,
    evaluate=st.builds(Evaluate, class_names=st.none() | st.lists(texts, max_size=2)),
    baseline=st.none() | texts,
    stages=st.none() | st.lists(st.dictionaries(texts, plain_values, max_size=2), max_size=2),
)


@settings(max_examples=60)
@given(recipe=recipes)
def test_yaml_loads_back_as_an_equal_recipe(recipe, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "recipe.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert load_recipe(read_yaml(recipe.to_yaml())) == recipe


def test_null_is_written_where_it_says_something():
    recipe = load_recipe("emoji-text-to-image", ["train.clip_grad=null", "student.weights=null"])
    assert load_recipe(read_yaml(recipe.to_yaml())).train.clip_grad is None
    assert load_recipe(read_yaml(recipe.to_yaml())).student.options["weights"] is None
    assert "image_size: null" not in recipe.to_yaml()


def test_options_are_what_stands_beside_the_name():
    spec = Spec(name="timm", model="resnet18", folder=Path("a/b"))
    assert spec.options == {"model": "resnet18", "folder": "a/b"}
    assert Term(loss="kl_divergence", student="logits", teacher="logits", temperature=4).options == {"temperature": 4}


def test_the_only_teacher_is_called_teacher(small):
    spec = small.pop("teacher")
    assert list(load_recipe({**small, "teacher": spec}).all_teachers()) == ["teacher"]
    assert list(load_recipe({**small, "teachers": {"a": spec, "b": spec}}).all_teachers()) == ["a", "b"]
    assert load_recipe(small).all_teachers() == {}


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (lambda: Spec(model="resnet18"), "name", "is missing; such as name: timm"),
        (lambda: Train(epochs=1, seed="one"), "seed", "expected a whole number; given the text 'one'"),
        (lambda: Train(epochs=1, max_steps=3), "", "give max_steps or epochs, one of the two"),
        (lambda: Train(), "", "give max_steps or epochs, one of the two"),
        (lambda: Term(loss="a", student="b", of=object()), "", "is of type object"),
        (lambda: Data(train="a", image_sise=3), "image_sise", "no such key. Nearest: image_size"),
    ],
)
def test_constructors_say_what_was_expected(make, path, message):
    with pytest.raises(RecipeError) as caught:
        make()
    assert [mistake.path for mistake in caught.value.mistakes] == [path]
    assert message in caught.value.mistakes[0].message


def test_a_recipe_does_not_change():
    recipe = load_recipe("emoji-text-to-image")
    with pytest.raises(XmodalError, match="make another one"):
        recipe.train.seed = 3
    assert recipe.train.seed == 0


@pytest.fixture
def small() -> dict[str, Any]:
    return load_recipe("emoji-text-to-image", {"baseline": None}).to_dict()
