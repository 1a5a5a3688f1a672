"""Preprocessing: what workers receive, and what becomes of a sample."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import create_transform

import xmodal.adapters
from xmodal.adapters import Encoder, create_student
from xmodal.adapters.encoder import Sample
from xmodal.adapters.preprocess import ImagePreprocess, to_rgb
from xmodal.data import TrainStream
from xmodal.errors import AdapterError
from xmodal.recipe import Augment

REPOSITORY = Path(xmodal.adapters.__file__).parents[2]


@pytest.fixture(scope="module")
def student() -> Encoder:
    image = {"model": "test_resnet", "weights": "random", "image_size": 32}
    return create_student("clip", image=image, text={"num_layers": 1, "width": 8, "num_heads": 1}, embed_dim=4)


def test_a_used_preprocess_pickles_small_and_does_the_same_in_another_process(
    student: Encoder, picture: Callable[..., Image.Image], tmp_path: Path
) -> None:
    sample = {"key": "x", "image": picture(), "text": "a cat on the grass"}
    here = student.preprocess.collate([student.preprocess(sample)])
    data = pickle.dumps((student.preprocess, sample))
    assert len(pickle.dumps(student.preprocess)) < 1_000_000  # a vocabulary of 30 000 words, no weights
    (tmp_path / "sent").write_bytes(data)
    code = (
        "import pickle, sys, torch\n"
        "preprocess, sample = pickle.load(open('sent', 'rb'))\n"
        "torch.save(preprocess.collate([preprocess(sample)]), 'back')"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    there = torch.load(tmp_path / "back", weights_only=True)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_batch_is_padded_to_its_longest_text_and_cut_at_the_limit(student: Encoder) -> None:
    def collate(*texts: str) -> dict[str, torch.Tensor]:
        return student.preprocess.collate([student.preprocess({"text": text}) for text in texts])

    inputs = collate("a cat", "a sad cat")
    assert set(inputs) == {"text_ids", "text_mask", "text_types"}
    assert inputs["text_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert collate("cat " * 500)["text_ids"].shape == (1, 64)


def test_the_sample_is_left_as_it_was(student: Encoder, picture: Callable[..., Image.Image]) -> None:
    image = picture(mode="RGBA")
    before = image.tobytes()
    sample = {"key": "x", "image": image, "text": "a cat"}
    student.preprocess(sample)
    assert sample == {"key": "x", "image": image, "text": "a cat"}
    assert image.tobytes() == before


def test_transparent_pictures_lie_on_white_and_grey_ones_have_three_channels() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("L", (2, 2), 7)).getpixel((1, 1)) == (7, 7, 7)
    rgb = Image.new("RGB", (2, 2))
    assert to_rgb(rgb) is rgb


def test_encode_says_what_a_model_cannot_encode(student: Encoder, minilm: Encoder) -> None:
    with pytest.raises(AdapterError, match="encodes text; given: image"):
        minilm.encode(image=[Image.new("RGB", (2, 2))])
    with pytest.raises(AdapterError, match="given: nothing"):
        minilm.encode()
    with pytest.raises(AdapterError, match="as many entries"):
        student.encode(image=[Image.new("RGB", (2, 2))], text=["a", "b"])


def test_encode_gives_the_same_whatever_the_batch_size(minilm: Encoder) -> None:
    texts = [f"a cat and {'a dog ' * count}" for count in range(7)]
    taps = ["text.embedding", "text.tokens", "text.mask"]
    one, all_ = (minilm.encode(text=texts, taps=taps, batch_size=size) for size in (2, 7))
    assert one["text.mask"].dtype == torch.bool
    assert torch.equal(one["text.mask"], all_["text.mask"])
    assert torch.allclose(one["text.embedding"], all_["text.embedding"], atol=1e-5)
    mask = one["text.mask"]
    assert torch.allclose(one["text.tokens"][mask], all_["text.tokens"][mask], atol=1e-5)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_batch_is_timms_transform_to_the_bit_wherever_it_is_finished(num_workers: int) -> None:
    class AsTimm:
        """The pictures that the stream shows, by timm's own transform."""

        fields = ("image",)

        def __call__(self, sample: Sample) -> dict[str, torch.Tensor]:
            return {"image": create_transform(**config, is_training=False)(sample["image"])}

        def collate(self, items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
            return {"image": torch.stack([item["image"] for item in items])}

    config = {
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }
    stream = TrainStream(
        "package://emoji/train-000000.tar",
        preprocess={"ours": ImagePreprocess(config), "timm": AsTimm()},
        batch_size=16,
        image_size=48,
        augment=Augment(crop_scale=(0.3, 1.0), flip=0.5),
        num_workers=num_workers,
        start_method="fork",
    )
    batches = list(islice(stream, 3))  # all kept, so that none may be written over
    for batch in batches:
        ours, theirs = batch["views"]["ours"]["image"], batch["views"]["timm"]["image"]
        assert ours.dtype == torch.float32
        assert ours.is_contiguous()
        assert torch.equal(ours, theirs)


def test_pictures_of_several_sizes_come_to_one(picture: Callable[..., Image.Image]) -> None:
    config = {"input_size": (3, 48, 48), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.2,) * 3}
    preprocess = ImagePreprocess({**config, "crop_pct": 1.0, "crop_mode": "center"})
    transform = create_transform(**preprocess.config, is_training=False)
    pictures = [picture(3, 48, 48), picture(3, 60, 50), picture(4, 48, 48)]
    items = [preprocess({"image": image}) for image in pictures]
    assert torch.equal(preprocess.collate(items)["image"], torch.stack([transform(image) for image in pictures]))
