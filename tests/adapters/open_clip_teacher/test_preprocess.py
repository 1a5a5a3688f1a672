"""Pictures and texts as open_clip's own transform and tokenizer see them, to the bit."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

import xmodal.adapters
from xmodal.adapters import Encoder
from xmodal.adapters.open_clip.preprocess import OpenClipPictures, OpenClipTexts
from xmodal.data import open_shards
from xmodal.data.decode import decode  # the function, not the module

REPOSITORY = Path(xmodal.adapters.__file__).parents[2]
KINDS = ["vit", "convolutions", "siglip", "coca", "bert"]  # shortest, longest and squashed
Make = Callable[..., Any]


@pytest.mark.parametrize("kind", KINDS)
def test_photos_and_texts_are_open_clips_own(
    kind: str, teacher_of: Make, reference: Make, photos: list[Image.Image], texts: list[str]
) -> None:
    teacher, (_, transform, tokenizer) = teacher_of(kind), reference(kind)
    pairs = zip(photos, texts, strict=True)
    inputs = teacher.preprocess.collate([teacher.preprocess({"image": i, "text": t}) for i, t in pairs])
    assert torch.equal(inputs["image"], torch.stack([transform(image) for image in photos]))
    assert torch.equal(inputs["text_ids"], tokenizer(texts))


def test_emoji_are_open_clips_own(teacher_of: Make, reference: Make) -> None:
    shards = open_shards("package://emoji/names-*.tar")
    samples = [decode(shards.read(number), fields=("image", "text")) for number in range(0, shards.num_samples, 40)]
    for kind in KINDS:
        preprocess, (_, transform, tokenizer) = teacher_of(kind).preprocess, reference(kind)
        inputs = preprocess.collate([preprocess(sample) for sample in samples])
        assert torch.equal(inputs["image"], torch.stack([transform(sample["image"]) for sample in samples])), kind
        assert torch.equal(inputs["text_ids"], tokenizer([sample["text"] for sample in samples])), kind


@pytest.mark.parametrize("size", [64, (48, 64)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_picture_of_the_models_size_travels_as_bytes_and_ends_as_open_clips(
    size: Any, mode: str, interpolation: str, photos: list[Image.Image]
) -> None:
    config = PreprocessCfg(size=size, resize_mode=mode, interpolation=interpolation)
    preprocess, transform = OpenClipPictures(vars(config)), image_transform_v2(config, is_train=False)
    height, width = preprocess.image_size
    fitting = [photo.resize((width, height)) for photo in photos]
    gathered = preprocess.gather([preprocess({"image": photo}) for photo in fitting])["image"]
    assert gathered.dtype == torch.uint8
    expected = torch.stack([transform(photo) for photo in fitting])
    assert torch.equal(preprocess.finish({"image": gathered})["image"], expected)
    mixed = [fitting[0], *photos]
    found = preprocess.collate([preprocess({"image": photo}) for photo in mixed])["image"]
    assert torch.equal(found, torch.stack([transform(photo) for photo in mixed]))


def test_grey_pictures_are_open_clips_own_and_transparent_ones_lie_on_white(
    teacher_of: Make, reference: Make, photos: list[Image.Image]
) -> None:
    preprocess, transform = teacher_of("vit").preprocess, reference("vit")[1]

    def seen(image: Image.Image) -> torch.Tensor:
        return preprocess.collate([preprocess({"image": image})])["image"][0]

    grey = photos[0].convert("L")
    assert torch.equal(seen(grey), transform(grey))
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert torch.equal(seen(clear), transform(Image.new("RGB", (40, 30), "white")))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_text_has_open_clips_ids_and_as_many_tokens_as_its_mask(texts: list[str]) -> None:
    tokenizer = SimpleTokenizer(context_length=12)
    preprocess = OpenClipTexts(tokenizer)
    inputs = preprocess.collate([preprocess({"text": text}) for text in texts])
    assert torch.equal(inputs["text_ids"], tokenizer(texts))
    lengths = [min(len(tokenizer.encode(text)) + 2, 12) for text in texts]
    assert inputs["text_mask"].sum(1).tolist() == lengths
    assert (inputs["text_mask"].diff(dim=1) <= 0).all()  # ones, then zeros


def test_a_mask_counts_an_exclamation_mark_whose_id_is_that_of_padding_and_one_end(teacher_of: Make) -> None:
    def mask(kind: str, *texts: str) -> list[int]:
        preprocess = teacher_of(kind).preprocess
        return preprocess.collate([preprocess({"text": text}) for text in texts])["text_mask"].sum(1).tolist()

    inner = teacher_of("siglip").preprocess.parts[1].tokenizer.tokenizer
    assert SimpleTokenizer().encoder["!"] == 0  # before other letters
    assert mask("vit", "a cat!", "", "night " * 50) == [5, 2, 16]
    assert inner.pad_token_id == inner.eos_token_id
    assert mask("siglip", "", "a cat") == [1, len(inner("a cat")["input_ids"])]
    assert mask("bert", "a cat", "") == [4, 2]


def test_a_used_preprocess_pickles_small_and_does_the_same_in_another_process(
    teacher_of: Make, photos: list[Image.Image], texts: list[str], tmp_path: Path
) -> None:
    preprocesses = [teacher_of(kind).preprocess for kind in KINDS]
    sample = {"key": "x", "image": photos[1], "text": texts[1]}
    here = [preprocess.collate([preprocess(sample)]) for preprocess in preprocesses]
    assert max(len(pickle.dumps(preprocess)) for preprocess in preprocesses) < 30_000
    (tmp_path / "sent").write_bytes(pickle.dumps((preprocesses, sample)))
    code = (
        "import pickle, sys, torch\n"
        "preprocesses, sample = pickle.load(open('sent', 'rb'))\n"
        "torch.save([preprocess.collate([preprocess(sample)]) for preprocess in preprocesses], 'back')"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    for one, other in zip(here, torch.load(tmp_path / "back", weights_only=True), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_added_tokens_and_the_way_of_cleaning_survive_pickling() -> None:
    tokenizer = SimpleTokenizer(additional_special_tokens=["<x>"], context_length=9, clean="canonicalize")
    again = pickle.loads(pickle.dumps(OpenClipTexts(tokenizer)))
    assert torch.equal(again.tokenizer(["A <x> b, c"]), tokenizer(["A <x> b, c"]))
    assert again.settings() == OpenClipTexts(tokenizer).settings()
    assert again.settings() != OpenClipTexts(SimpleTokenizer(context_length=9)).settings()


def test_a_text_that_is_no_string_is_refused(teacher_of: Make) -> None:
    teacher: Encoder = teacher_of("vit")
    with pytest.raises(xmodal.errors.AdapterError, match="must be a str; given int"):
        teacher.encode(text=[3])  # type: ignore[list-item]
