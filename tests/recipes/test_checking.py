"""Every mistake that can be known before a weight is loaded is found, at once, by its dotted path."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from xmodal.errors import RecipeError
from xmodal.recipes import check, load_recipe
from xmodal.recipes.overrides import apply_overrides

NAME = "emoji-text-to-image"
PYDANTIC = (
    "Input should",
    "Value error",
    "validation error",
    "Field required",
    "Extra inputs",
    "pydantic",
    "dict[",
    "Optional",
)

TYPES = [
    ("train.learnig_rate=1", "train.learnig_rate", "no such key. Nearest: train.learning_rate"),
    ("train.lr=1", "train.lr", "Nearest: train.learning_rate"),
    ("learning_rate=1", "learning_rate", "Nearest: train.learning_rate"),
    ("train.flip=1", "train.flip", "Nearest: data.augment.flip"),
    ("trian.seed=1", "trian", "Nearest: train"),
    ("data.augment.zzz=1", "data.augment.zzz", "no such key"),
    ("train.batch_size=many", "train.batch_size", "expected a whole number, at least 1; given the text 'many'"),
    ("train.batch_size=2.5", "train.batch_size", "given 2.5"),
    ("train.batch_size=true", "train.batch_size", "expected a whole number, at least 1; given true"),
    ("train.batch_size=0", "train.batch_size", "at least 1; given 0"),
    ("train.learning_rate=.inf", "train.learning_rate", "expected a number, above 0; given inf"),
    ("train.learning_rate=null", "train.learning_rate", "given null"),
    ("train.ema=1", "train.ema", "expected a number, above 0 and below 1, or null"),
    ("train.betas=[1]", "train.betas", "expected two numbers in brackets; given the list [1]"),
    ("train.betas=[0.9, 1]", "train.betas", "below 1; given [0.9, 1.0]"),
    (
        "train.schedule=cosin",
        "train.schedule",
        "expected one_cycle, cosine, linear or constant; given the text 'cosin'",
    ),
    ("train.device=gpu", "train.device", "expected auto, cpu, mps, cuda or cuda:1"),
    ("train.compile=maybe", "train.compile", "expected true or false"),
    ("train=3", "train", "expected a mapping; given 3"),
    ("train.epochs=null", "train", "give max_steps or epochs"),
    ("data.train=3", "data.train", "expected a text, a list of texts or a mapping from names to"),
    ("data.val={a: 3}", "data.val.a", "given 3"),
    ("data.augment.crop_scale=[0.5]", "data.augment.crop_scale", "two numbers"),
    ("objective=[]", "objective", "with at least 1 entry"),
    ("objective.0=feature_mse", "objective.0", "expected a mapping {loss: …}; given the text 'feature_mse'"),
    ("objective.0.weight=heavy", "objective.0.weight", "expected a number"),
    ("objective.0.student=[image.embedding, 3]", "objective.0.student.1", "given 3"),
    ("objective.0.student=[[image.embedding, 3]]", "objective.0.student.0.1", "expected a text; given 3"),
    ("objective.0.teacher={text: [text.embedding]}", "objective.0.teacher.text", "expected a text"),
    ("objective.0.mask={mask: {a: 3}}", "objective.0.mask.mask.a", "expected a text; given 3"),
    (
        "objective.0.weight={from: 0, to: 1, after: 0.5, until: 0.2}",
        "objective.0.weight",
        "ends before it starts: after 0.5, until 0.2",
    ),
    ("objective.0.weight={from: 0, to: 1, till: 0.2}", "objective.0.weight.till", "Nearest: objective.0.weight.until"),
    ("objective.0.weight={from: 0}", "objective.0.weight.to", "is missing: a number"),
    (
        "objective.0.standardize=some",
        "objective.0.standardize",
        "expected true or false, running, whitening, phi_s or",
    ),
    ("objective.0.standardize={momentum: 2}", "objective.0.standardize.momentum", "at most 1; given 2"),
    (
        "objective.0.projection={name: linear, learning_rate_factor: 0}",
        "objective.0.projection.learning_rate_factor",
        "expected a number, above 0; given 0",
    ),
    ("train.term_gradients_every=0", "train.term_gradients_every", "at least 1, or null; given 0"),
    ("objective.0.side=left", "objective.0.side", "expected student or teacher"),
    ("student=image", "student", "expected a mapping {name: …}; given the text 'image'"),
    ("student={model: resnet18, name: 3}", "student.name", "expected a text"),
    ("stages=[1]", "stages.0", "expected a mapping"),
    ("teachers={teacher: {model: b}}", "teachers.teacher.name", "is missing"),
]
NAMES = [
    ("teacher.name=sentense", "teacher.name", "'sentense' is not a teacher. Nearest: sentence"),
    ("student.name=imag", "student.name", "is not a student. Nearest: image"),
    ("student.model=mobilenetv9_conv_small", "student.model", "is not a timm model. Nearest: mobilenetv4_conv_small"),
    ("student.wieghts=imagenet", "student.wieghts", "no such option of student 'image'. Nearest: student.weights"),
    ("student.weights=imagnet", "student.weights", "neither imagenet nor random"),
    ("student.drop_path=much", "student.drop_path", "expected a number; given the text 'much'"),
    ("student.embed_dim=true", "student.embed_dim", "given true"),
    ("student={name: image}", "student.model", "is missing: student 'image' needs it, a text"),
    ("teacher.model=./nowhere", "teacher.model", "There is no folder './nowhere'"),
    ("objective.0.loss=feature_cosin", "objective.0.loss", "Nearest: feature_cosine"),
    ("objective.0.wieght=2", "objective.0.wieght", "weight"),
    (
        "objective.1.teacher_scale=big",
        "objective.1.teacher_scale",
        "expected a number above 0 or a list of numbers above 0; given the text 'big'",
    ),
    (
        "objective.0.teacher=text.embeding",
        "objective.0.teacher",
        "'text.embeding' is not a tap of teacher 'sentence' (all-MiniLM-L6-v2)",
    ),
    ("objective.0.teacher=text.hidden.9", "objective.0.teacher", "text.hidden.0 … text.hidden.6"),
    (
        "objective.0.student=text.embedding",
        "objective.0.student",
        "is not a tap of student 'image' (tf_efficientnet_lite0)",
    ),
    ("objective.1.teacher_scale={from: 0.1, to: 1, untl: 1}", "objective.1.teacher_scale.untl", "Nearest: until"),
    (
        "objective.1.teacher=[[text.embedding, teachr:text.embedding], [text.embedding, text.embedding]]",
        "objective.1.teacher.0.1",
        "Nearest: teacher",
    ),
    ("objective.0.student={image: image.embedding}", "objective.0.student", "takes a tap here (student)"),
    ("objective.0.mask=[teacher:text.mask, teacher:text.mask]", "objective.0.mask", "takes 1 mask (mask)"),
    ("objective.0.bank=3", "objective.0.bank", "no such option; feature_cosine takes no options"),
    (
        "objective.0.projection={name: linear, learning_rate: 2}",
        "objective.0.projection.learning_rate",
        "learning_rate_factor",
    ),
    ("objective.1.student.1=teachr:text.embedding", "objective.1.student.1", "Nearest: teacher"),
    ("objective.0.projection=linera", "objective.0.projection", "Nearest: linear"),
    ("scheme=ofline", "scheme", "is not a scheme. Nearest: offline"),
    ("scheme.depth=3", "scheme.depth", "no such option of scheme 'offline'"),
    ("data.train=nope/*.tar", "data.train", "there is no folder nope"),
    ("data.val.seen=package://emoji/trian-*.tar", "data.val.seen", "No shard matches"),
    ("data.slots=48", "data.slots", "48 does not divide train.batch_size, which is 64"),
    ("train.accumulate=2", "train.accumulate", "soft_contrastive compares all samples"),
    ("evaluate.tasks=[retreival]", "evaluate.tasks.0", "Nearest: retrieval"),
    ("evaluate.templates=[a photo]", "evaluate.templates.0", "write {}"),
    ("baseline=emoji-text-image", "baseline", "is not a recipe. Nearest: emoji-text-to-image"),
    ("stages=[{student.model: resnet19}]", "stages.0.student.model", "Nearest: resnet18"),
    ("stages=[{scheme: ofline}, {train.seed: 1}]", "stages.0.scheme", "Nearest: offline"),
]


@pytest.mark.parametrize(("override", "path", "words"), [*TYPES, *NAMES])
def test_a_mistake_is_found_by_its_path_in_plain_words(override, path, words, mistakes_in):
    found = mistakes_in(NAME, override)
    assert [mistake.path for mistake in found] == [path]
    assert words in found[0].message
    assert not any(word in found[0].message for word in PYDANTIC)


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("teacher={name: transformers, model: ./nowhere}", "teacher.model", "There is no folder './nowhere'"),
        (
            "teacher={name: transformers, model: x, dtype: bf16}",
            "teacher.dtype",
            "expected float32, bfloat16 or float16",
        ),
        ("teacher={name: transformers, model: x, attention: flash}", "teacher.attention", "expected sdpa, eager"),
        ("teacher={name: open_clip, model: local-dir:./nowhere}", "teacher.model", "There is no folder './nowhere'"),
        ("teacher={name: open_clip, model: ViT-B-32, pretrained: openia}", "teacher.pretrained", "Nearest: openai"),
        ("teacher={name: open_clip, model: ViT-B-32}", "teacher.pretrained", "Say which weights of ViT-B-32 are meant"),
        (
            "teacher={name: open_clip, model: ViT-B-32, pretrained: openai, precision: half}",
            "teacher.precision",
            "expected fp32, bf16",
        ),
        (
            "teacher={name: ensemble, teachers: [{name: transformers, model: ./nowhere}]}",
            "teacher.teachers.0.model",
            "There is no folder './nowhere'",
        ),
        ("student={name: text, model: ./nowhere}", "student.model", "There is no folder './nowhere'"),
        ("student={name: static, tokenizer: ./nowhere}", "student.tokenizer", "There is no folder './nowhere'"),
    ],
)
def test_what_no_model_can_be_made_of_is_found_before_it_is_made(override, path, words, mistakes_in):
    found = {mistake.path: mistake.message for mistake in mistakes_in(NAME, override)}
    assert words in found[path]


def test_mistakes_of_every_kind_come_at_once_in_the_order_of_the_recipe(mistakes_in):
    overrides = [
        override
        for override, _, _ in NAMES
        if not override.startswith(
            ("student={", "student.name", "teacher.name", "stages", "train.accumulate", "scheme.d")
        )
    ]
    kept: dict[str, str] = {}
    for override in overrides:
        kept.setdefault(override.partition("=")[0], override)
    found = [
        mistake.path for mistake in mistakes_in(NAME, *kept.values(), "train.learnig_rate=1", "data.window=-1", "zzz=1")
    ]
    assert found[-1] == "zzz"
    assert {
        "train.learnig_rate",
        "data.window",
        "student.model",
        "student.weights",
        "objective.0.loss",
        "data.train",
    } <= set(found)
    sections = [path.partition(".")[0] for path in found]
    assert sections == sorted(
        sections,
        key=["teacher", "student", "data", "objective", "scheme", "train", "evaluate", "baseline", "zzz"].index,
    )
    assert len(set(found)) == len(found)


def test_a_term_keeps_its_number_where_another_is_broken(mistakes_in):
    found = mistakes_in(NAME, "objective.0.weight=heavy", "objective.1.loss=soft_contrastiv")
    assert [mistake.path for mistake in found] == ["objective.0.weight", "objective.1.loss"]


def test_the_message_is_a_table_that_fits_a_terminal():
    with pytest.raises(RecipeError) as caught:
        load_recipe(
            NAME, ["train.learnig_rate=1", "objective.0.teacher=text.embeding", "student.model=mobilenetv9_conv_small"]
        )
    first, *lines = str(caught.value).split("\n")
    assert first == f"recipe {NAME} has 3 mistakes; nothing was loaded."
    assert max(map(len, lines)) <= 118
    messages = {line[2:].split("  ")[0]: line for line in lines if not line.startswith("   ")}
    assert set(messages) == {"train.learnig_rate", "objective.0.teacher", "student.model"}
    columns = {len(line) - len(line[2:].partition("  ")[2].lstrip()) for line in messages.values()}
    assert len(columns) == 1, "messages are in one column"


def test_options_of_both_towers_are_checked(mistakes_in):
    name = f"{NAME}-without-teacher"
    found = mistakes_in(name, "student.image.model=resnet19", "student.text.num_layer=3", "student.embed_dim=wide")
    assert {mistake.path for mistake in found} == {"student.image.model", "student.text.num_layer", "student.embed_dim"}


def test_a_teacher_that_no_term_uses_is_a_mistake(mistakes_in):
    found = mistakes_in(f"{NAME}-without-teacher", "teacher={name: sentence, model: all-MiniLM-L6-v2}")
    assert [mistake.path for mistake in found] == ["teacher"]


def test_with_several_teachers_a_tap_says_whose_it_is(small, mistakes_in):
    spec = small.pop("teacher")
    small["teachers"] = {"one": spec, "two": spec}
    small["objective"] = [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"}]
    assert "one:text.embedding, two:text.embedding" in mistakes_in(small)[0].message
    small["objective"] = [
        {"loss": "feature_cosine", "student": "image.embedding", "teacher": f"{name}:text.embedding"}
        for name in ("one", "two")
    ]
    assert mistakes_in(small) == []
    small["teachers"]["two"] = {**spec, "modle": 3}
    assert [mistake.path for mistake in mistakes_in(small)] == ["teachers.two.modle"]


def test_checking_loads_no_weights(monkeypatch, small):
    import xmodal.adapters
    from xmodal.adapters import registration

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(registration, "_create", refuse)
    for registry in (xmodal.adapters.TEACHERS, xmodal.adapters.STUDENTS):
        assert list(registry)
    assert check(load_recipe(small)) == []


def test_loading_imports_no_torch_unless_there_is_a_mistake():
    import subprocess

    code = (
        f"import sys; from xmodal.recipes import load_recipe; load_recipe({NAME!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


RECIPE = load_recipe(NAME, {"stages": [{"train.seed": 1}]}).to_dict()


def paths_of(value, prefix=()):
    yield from [prefix] if prefix else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from paths_of(entry, (*prefix, str(key)))


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 10**6)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["", "name", "image", "str"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["name", "loss", "a.b"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(sorted(paths_of(RECIPE))), value=junk)
@example(path=("data", "val"), value={"str": 3})
@example(path=("student", "model"), value=["resnet18"])
@example(path=("objective", "0", "teacher"), value="text.")
@example(path=("objective", "0", "label"), value="..")
@example(path=("stages",), value=[{"": 1}, {"stages": 3}, {"objective.7.loss": 3}])
@example(path=("teacher",), value={"name": "given"})
def test_whatever_stands_in_a_recipe_it_loads_or_its_mistakes_are_said_in_plain_words(path, value):
    changed, _ = apply_overrides(RECIPE, {".".join(path): value}) if value == value else (RECIPE, [])
    try:
        mistakes = check(load_recipe(changed))
    except RecipeError as error:
        mistakes = list(error.mistakes)
        assert mistakes
    for mistake in mistakes:
        assert mistake.message
        assert not any(word in mistake.message for word in PYDANTIC), mistake
