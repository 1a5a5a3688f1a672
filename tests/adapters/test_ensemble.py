"""Several teachers as one, against each alone and sums written out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

import xmodal
from xmodal.adapters import Encoder, create_teacher
from xmodal.adapters.teachers.ensemble import EnsembleTeacher
from xmodal.data.cache.job import cache
from xmodal.data.cache.recipe import jobs_of
from xmodal.errors import AdapterError
from xmodal.recipes import load_recipe
from xmodal.recipes.models import model_mistakes, outline
from xmodal.schemes.presence import features_of, presence_of

RESNET = {"name": "timm", "model": "test_resnet", "pretrained": False}
VIT = {"name": "timm", "model": "test_vit", "pretrained": False}


@pytest.fixture(scope="module")
def pair() -> list[Encoder]:
    """Two transformers with an embedding of 64 and 1000 classes, which want pictures of unlike sizes."""
    torch.manual_seed(0)
    return [
        create_teacher("timm", model="test_vit", pretrained=False),
        create_teacher("timm", model="test_vit2", pretrained=False, image_size=64),
    ]


@pytest.fixture
def pictures(picture: Callable[..., Image.Image]) -> list[Image.Image]:
    return [picture(seed, 60, 50 + seed) for seed in range(3)]


def unit(tensor: Tensor) -> Tensor:
    return tensor / tensor.norm(dim=-1, keepdim=True)


def alone(pair: list[Encoder], pictures: list[Image.Image], tap: str = "image.embedding") -> tuple[Tensor, Tensor]:
    first, second = (member.encode(image=pictures, taps=[tap])[tap] for member in pair)
    return first, second


def test_the_mean_of_embeddings_of_length_one(pair: list[Encoder], pictures: list[Image.Image]) -> None:
    first, second = alone(pair, pictures)
    found = EnsembleTeacher(pair, weights=[3, 1]).encode(image=pictures)["image.embedding"]
    assert torch.allclose(found, 0.75 * unit(first) + 0.25 * unit(second), atol=1e-6)
    plain = EnsembleTeacher(pair, normalize=False).encode(image=pictures)["image.embedding"]
    assert torch.allclose(plain, (first + second) / 2, atol=1e-6)


def test_side_by_side_cosines_are_the_weighted_mean_of_cosines(
    pair: list[Encoder], pictures: list[Image.Image]
) -> None:
    teacher = EnsembleTeacher(pair, weights=[1, 4], mode="concat")
    found = teacher.encode(image=pictures)["image.embedding"]
    first, second = (unit(embedding) for embedding in alone(pair, pictures))
    assert found.shape[1] == teacher.embed_dim == 128
    assert torch.allclose(found @ found.T, 0.2 * first @ first.T + 0.8 * second @ second.T, atol=1e-6)
    assert torch.allclose(found[:, :64], 0.2**0.5 * first, atol=1e-6)


def test_classes_are_those_of_the_mean_probability(pair: list[Encoder], pictures: list[Image.Image]) -> None:
    found = EnsembleTeacher(pair, weights=[1, 3]).encode(image=pictures, taps=["logits"])["logits"]
    first, second = (z.double().softmax(-1) for z in alone(pair, pictures, "logits"))
    assert torch.allclose(found.double().exp(), 0.25 * first + 0.75 * second, atol=1e-7)


def test_each_members_taps_are_within_reach(pair: list[Encoder], pictures: list[Image.Image]) -> None:
    teacher = EnsembleTeacher(pair)
    names = {"image.part.1": "image.embedding", "image.part.1.hidden.-1": "image.hidden.-1", "logits.part.1": "logits"}
    found = teacher.encode(image=pictures, taps=[*names, "image.part.0.tokens"])
    own = pair[1].encode(image=pictures, taps=list(names.values()))
    assert all(torch.equal(found[tap], own[other]) for tap, other in names.items())
    assert torch.equal(found["image.part.0.tokens"], alone(pair, pictures, "image.tokens")[0])
    with pytest.raises(AdapterError, match=r"'image\.part\.2' is not a tap.*Nearest: image\.part\.[01]"):
        teacher.encode(image=pictures, taps=["image.part.2"])


def test_a_member_that_is_not_asked_for_does_not_run(pair: list[Encoder], pictures: list[Image.Image]) -> None:
    teacher = EnsembleTeacher(pair)
    handle = pair[0].model.register_forward_hook(lambda *given: pytest.fail("the first member ran"))
    try:
        teacher.encode(image=pictures, taps=["image.part.1.map"])
    finally:
        handle.remove()


def image_and_text(minilm: Encoder) -> EnsembleTeacher:
    torch.manual_seed(0)
    return EnsembleTeacher([minilm, create_teacher("timm", model="test_resnet", pretrained=False)])


def test_of_unlike_modalities_the_union_under_the_members_own_names(
    minilm: Encoder, pictures: list[Image.Image]
) -> None:
    teacher = image_and_text(minilm)
    image = teacher.members[1]
    assert teacher.modalities == ("text", "image")
    assert teacher.embed_dim is None
    assert set(teacher.taps()) == {*minilm.taps(), *image.taps()}
    texts = ["a cat", "two dogs in the rain", "snow"]
    for given in ({"text": texts}, {"image": pictures}, {"text": texts, "image": pictures}):
        found = teacher.encode(**given)  # type: ignore[arg-type]
        assert set(found) == {f"{field}.embedding" for field in given}
        for field, expected in (("text", minilm), ("image", image)):
            if field in given:
                own = expected.encode(**{field: given[field]})[f"{field}.embedding"]  # type: ignore[arg-type]
                assert torch.allclose(found[f"{field}.embedding"], own, atol=1e-6)


def test_rows_that_lack_a_modality_reach_no_member_of_it(minilm: Encoder, pictures: list[Image.Image]) -> None:
    teacher = image_and_text(minilm)
    samples = [{"text": text, "image": image} for text, image in zip(["a", "b c", "d"], pictures, strict=True)]
    inputs = teacher.preprocess.collate([teacher.preprocess(sample) for sample in samples])
    assert all(name.startswith(("image.", "text.")) for name in inputs)
    present = {"image": torch.tensor([True, False, True])}
    seen: list[int] = []
    handle = teacher.members[1].model.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    try:
        taps = ["text.embedding", "logits"]
        found = features_of(teacher, inputs, ["text.embedding", "image.embedding"], present)
    finally:
        handle.remove()
    expected = teacher(inputs, ["text.embedding", "image.embedding"])
    assert torch.allclose(found["text.embedding"], expected["text.embedding"], atol=1e-6)
    assert torch.allclose(found["image.embedding"][[0, 2]], expected["image.embedding"][[0, 2]], atol=1e-6)
    assert not found["image.embedding"][1].any()
    assert set(presence_of(teacher, taps, present)) == {"logits"}


def test_what_workers_run_is_picklable_and_the_same_in_two_parts(minilm: Encoder, pictures: list[Image.Image]) -> None:
    preprocess = pickle.loads(pickle.dumps(image_and_text(minilm).preprocess))
    items = [preprocess({"text": "a cat", "image": image}) for image in pictures]
    whole, parts = preprocess.collate(items), preprocess.finish(preprocess.gather(items))
    assert set(preprocess.fields) == {"image", "text"}
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": []}, r"needs at least one teacher"),
        ({"teachers": [RESNET], "weights": [1, 2]}, r"of 1 teachers needs as many weights.*given \[1, 2\]"),
        ({"teachers": [RESNET], "weights": [0]}, r"each above 0"),
        ({"teachers": [RESNET], "mode": "sum"}, r"mode is mean or concat; given 'sum'"),
        (
            {"teachers": [RESNET, VIT]},
            r"cannot be averaged: timm \(test_resnet\) \d+, timm \(test_vit\) 64 dim.*concat",
        ),
        ({"teachers": [RESNET, {"name": "tim"}]}, r"teachers\.1: 'tim' is not a teacher\. Nearest: timm"),
        ({"teachers": [{"name": "timm", "modle": "x"}]}, r"teachers\.0: teacher 'timm' has no option 'modle'"),
        ({"teachers": ["timm"]}, r"teachers\.0 of an ensemble is \{name"),
    ],
)
def test_what_cannot_be_put_together_is_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        create_teacher("ensemble", **options)


def test_classes_of_unlike_numbers_are_refused(pictures: list[Image.Image]) -> None:
    few, many = (create_teacher("timm", model="test_vit", pretrained=False) for _ in range(2))
    few.model.reset_classifier(7)
    with pytest.raises(AdapterError, match=r"logits of an ensemble is a mean.*\[3, 7\].*\[3, 1000\]"):
        EnsembleTeacher([few, many]).encode(image=pictures, taps=["logits"])


def test_frozen_and_the_identity_follows_everything(pair: list[Encoder]) -> None:
    teacher = create_teacher("ensemble", teachers=[VIT, VIT])
    before = teacher.state_hash()
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher.state_hash() == before
    many = [
        EnsembleTeacher(pair),
        EnsembleTeacher(pair[::-1]),
        EnsembleTeacher(pair, [1, 2]),
        EnsembleTeacher(pair, mode="concat"),
        EnsembleTeacher(pair, normalize=False),
        EnsembleTeacher(pair[:1]),
    ]
    assert len({each.identity() for each in many}) == len(many)
    assert EnsembleTeacher(pair).identity() == many[0].identity()


def test_mistakes_in_a_member_are_found_in_the_recipe_by_their_path() -> None:
    teachers = [
        {"name": "timm", "model": "resnet1", "pretraned": False},
        {"name": "sentense"},
        {"model": "x"},
        {"name": "timm"},
    ]
    found = {mistake.path: mistake.message for mistake in model_mistakes("teacher", "ensemble", {"teachers": teachers})}
    assert set(found) == {
        "teacher.teachers.0.pretraned",
        "teacher.teachers.0.model",
        "teacher.teachers.1.name",
        "teacher.teachers.2.name",
        "teacher.teachers.3.model",
    }
    assert "teacher.teachers.0.pretrained" in found["teacher.teachers.0.pretraned"]


def test_its_taps_are_known_before_it_is_made() -> None:
    sentence = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}
    known = outline("teacher", {"name": "ensemble", "teachers": [VIT, VIT, sentence]})
    assert known is not None
    assert all(
        known.has(tap) for tap in ("image.embedding", "image.part.1.hidden.3", "text.hidden.-1", "logits.part.0")
    )
    assert not any(known.has(tap) for tap in ("image.hidden.0", "text.hidden.9", "image.part.2.map"))
    assert outline("teacher", {"name": "ensemble", "teachers": [{"name": "letters"}]}) is None


@pytest.mark.parametrize("cached", [False, True])
def test_a_student_is_taught_by_an_ensemble_online_and_from_its_cache(cached: bool, tmp_path: Path) -> None:
    text = {"name": "sentence", "model": "sentence-transformers/all-MiniLM-L6-v2"}
    shards = tmp_path / "shards"
    shards.mkdir()
    samples = Path(xmodal.__file__).parent / "data" / "samples" / "emoji"
    for name in ("names-000000.tar", "names-000000.index.json"):
        (shards / name).write_bytes((samples / name).read_bytes())
    recipe = {
        "teacher": {"name": "ensemble", "teachers": [text, {**text, "prompt": "a picture of "}, RESNET]},
        "student": {"name": "image", "model": "test_efficientnet", "weights": "random", "embed_dim": 384},
        "data": {"train": str(shards / "names-*.tar"), "image_size": 32, "num_workers": 0},
        "objective": [
            {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.embedding"},
            {"loss": "feature_cosine", "student": "image.embedding", "teacher": "text.part.1"},
        ],
        "train": {"max_steps": 2, "batch_size": 16},
    }
    torch.manual_seed(0)
    if cached:
        recipe["teacher"] = {**recipe["teacher"], "teachers": [text, {**text, "prompt": "a picture of "}]}  # type: ignore[dict-item]
        recipe["teacher"] = {**recipe["teacher"], "cached": True}  # type: ignore[dict-item]
        cache(jobs_of(load_recipe(recipe)))
    run = xmodal.distill(recipe, out=tmp_path / "run", console=Console(quiet=True))
    assert (run.folder / "student" / "model.safetensors").is_file()
