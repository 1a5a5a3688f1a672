"""Preprocessing: what workers receive, and what becomes of a sample."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import xmodal.adapters
from xmodal.adapters import Encoder, create_student
from xmodal.adapters.preprocess import to_rgb
from xmodal.errors import AdapterError

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
