"""A cache that does not fit is an error that says which file, what is wrong with it, and what mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xmodal.data.cache.check import check
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of, open_cached
from xmodal.data.stream_sources import open_sources
from xmodal.errors import DataError, XmodalError
from xmodal.recipes import check as check_recipe
from xmodal.recipes import load_recipe

AUGMENT = {"crop_scale": [0.5, 1.0]}


@pytest.fixture
def recipe(folder, picture_spec):
    def make(*overrides, teacher=None, views=2):
        return load_recipe(
            {
                "teacher": {**picture_spec, "cached": True, **(teacher or {})},
                "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
                "data": {"train": str(folder / "*.tar"), "image_size": 32, "augment": AUGMENT, "views": views},
                "objective": [{"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"}],
                "train": {"max_steps": 2, "batch_size": 4, "device": "cpu"},
            },
            overrides,
        )

    return make


@pytest.fixture
def open_it(recipe):
    """The cached teacher of a recipe, and the features of its first sample."""

    def run(*overrides, **options):
        made = recipe(*overrides, **options)
        sources = open_sources(made.data.train, made.data.text)
        teacher = open_cached(made, "teacher", sources)
        shards = sources[0].shards
        rows = range(shards.num_samples)
        samples = [{"key": shards.key(r), "shard": shards.names[shards.locate(r)[0]], "view": 1} for r in rows]
        return teacher, teacher.preprocess.collate([teacher.preprocess(sample) for sample in samples])

    return run


@pytest.fixture
def written(recipe, folder):
    cache(jobs_of(recipe(), device="cpu", batch_size=4))
    return sorted(folder.glob("*.safetensors"))


def rewrite(path, change):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a mapping
        facts = json.loads(file.metadata()["xmodal"])
    change(tensors, facts)
    save_file(tensors, path, {"xmodal": json.dumps(facts)})


def test_features_are_handed_on_as_float32_under_the_teachers_own_name(open_it, written, recipe):
    teacher, inputs = open_it()
    assert inputs["image.embedding"].dtype == torch.float16
    features = teacher(inputs, ["image.embedding"])["image.embedding"]
    assert features.dtype == torch.float32
    assert features.shape == (23, teacher.embed_dim)
    real = teacher.real()
    assert (teacher.name, teacher.identity(), teacher.modalities) == (real.name, real.identity(), real.modalities)
    assert teacher.num_parameters() == real.num_parameters()
    assert not list(teacher.parameters())


def test_no_weights_are_needed(open_it, written, picture_spec, monkeypatch):
    import xmodal.adapters.teachers.timm as adapter

    monkeypatch.setattr(adapter, "make_network", lambda *a, **o: pytest.fail("the network was made"))
    open_it()


def test_no_cache_at_all_names_the_command(open_it):
    with pytest.raises(DataError, match=r"no cache of .*test_efficientnet.*xmodal cache"):
        open_it()


def test_a_missing_sidecar_is_named(open_it, written):
    written[1].unlink()
    with pytest.raises(DataError, match=r"shard-000001.*is missing, one of 1 missing of 3.*xmodal cache"):
        open_it()


def test_a_cut_sidecar_is_named(open_it, written):
    written[2].write_bytes(written[2].read_bytes()[:-40])
    with pytest.raises(DataError, match=r"shard-000002.*cut short or broken.*xmodal cache"):
        open_it()


def test_a_sidecar_with_too_few_rows_is_short(open_it, written):
    def cut(tensors, facts):
        tensors.update({name: tensor[:-1].contiguous() for name, tensor in tensors.items()})

    rewrite(written[1], cut)
    with pytest.raises(DataError, match=r"shard-000001.*is short: 8 rows.*9 samples.*xmodal cache"):
        open_it()


def test_a_shard_that_changed_makes_its_sidecar_stale(open_it, written):
    def age(tensors, facts):
        facts["shard"]["sha256"] = "0" * 64

    rewrite(written[1], age)
    with pytest.raises(DataError, match=r"shard-000001.*is stale.*xmodal cache"):
        open_it()


def test_a_sample_that_is_not_in_it_makes_it_stale(open_it, written):
    def rename(tensors, facts):
        tensors["keys"][3] += 1

    rewrite(written[0], rename)
    with pytest.raises(DataError, match=r"shard-000000.*is stale: it has no sample.*xmodal cache"):
        open_it()


def test_rows_are_joined_by_key_not_by_position(open_it, written):
    _, before = open_it()

    def turn(tensors, facts):
        tensors.update({name: tensor.flip(0).contiguous() for name, tensor in tensors.items()})

    rewrite(written[0], turn)
    _, after = open_it()
    assert torch.equal(before["image.embedding"], after["image.embedding"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.seed=1", "seed 0, not 1"),
        ("data.image_size=40", "image_size 32, not 40"),
        ("data.decoder=pil", 'decoder ".*", not "pil"'),
        ("data.augment.flip=0.5", "flip"),
    ],
)
def test_a_cache_of_other_samples_is_foreign(open_it, written, override, said):
    with pytest.raises(DataError, match=rf"foreign cache.*{said}.*--replace.*xmodal cache"):
        open_it(override)


@pytest.mark.parametrize("override", ["data.augment.time_masks=2", "data.label=json.label", "data.features.more=npy"])
def test_what_a_teacher_of_pictures_does_not_see_is_nothing_to_it(open_it, written, override):
    open_it(override)


def test_more_views_than_there_are_is_an_error_and_fewer_are_not(open_it, written):
    open_it(views=1)
    with pytest.raises(DataError, match=r"holds 2 views.*fewer than the 3.*xmodal cache"):
        open_it(views=3)


def test_a_cache_of_another_teacher_is_refused(open_it, written):
    with pytest.raises(DataError, match=r"another teacher: timm .*image_size: 32.*not of .*image_size: 48"):
        open_it(teacher={"image_size": 48})


def test_a_cache_of_other_weights_in_the_same_file_is_refused(open_it, written, tmp_path, picture_spec):
    copy = tmp_path / "weights.safetensors"
    with safe_open(picture_spec["pretrained"], "pt") as file:
        save_file({name: file.get_tensor(name) + 1 for name in file.keys()}, copy)  # noqa: SIM118
    weights = Path(picture_spec["pretrained"])
    original = weights.read_bytes()
    try:
        weights.write_bytes(copy.read_bytes())
        with pytest.raises(DataError, match="before they changed"):
            open_it()
    finally:
        weights.write_bytes(original)


def test_a_tap_that_is_not_stored_is_named_with_the_command(open_it, written, recipe):
    with pytest.raises(DataError, match=r"lacks logits; it holds image.embedding.*xmodal cache"):
        open_it("objective.0.teacher=logits")


def test_a_tap_that_the_teacher_does_not_have_is_not_asked_of_a_cache(open_it, written):
    with pytest.raises(XmodalError, match=r"image.hidden.99"):
        open_it("objective.0.teacher=image.hidden.99")


def test_endless_views_of_a_cached_picture_are_a_mistake_of_the_recipe(recipe):
    (mistake,) = check_recipe(recipe(views=None))
    assert mistake.path == "data.views"
    assert "views: 10" in mistake.message


@pytest.mark.parametrize(("value", "mistakes"), [(True, 0), ("some/folder", 0), (False, 0), (3, 1), ("", 1)])
def test_cached_is_true_or_a_folder(recipe, value, mistakes):
    assert len(check_recipe(recipe(teacher={"cached": value}))) == mistakes


def test_another_pixel_of_a_shard_is_found_by_check(recipe, written, folder):
    jobs = jobs_of(recipe())
    assert check(jobs) == []
    shard = folder / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(bytes(content))
    (finding,) = check(jobs)
    assert (finding.sidecar, finding.kind) == (str(written[1]), "stale")


def test_check_finds_what_is_not_finite(recipe, written):
    def spoil(tensors, facts):
        tensors["image.embedding"][2, 1, 0] = float("nan")

    rewrite(written[2], spoil)
    (finding,) = check(jobs_of(recipe()))
    assert (finding.sidecar, finding.kind) == (str(written[2]), "broken")
