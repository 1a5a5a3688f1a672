"""Pictures and texts as transformers' own processors make them; what names a teacher; what stays still."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import xmodal
from xmodal.adapters import Encoder, create_teacher
from xmodal.data import open_shards
from xmodal.data.decode import decode  # the function, not the module

PROCESSORS = ["clip", "siglip", "vit", "dinov2", "dinov3"]
TOKENIZERS = ["clip", "siglip", "siglip2", "bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "deberta-v2"]
TEXTS = ["a sad cat", "", "The BIG red dog, and the cat. Sleeps under the bridge of the river in the night", "cat"]


def teacher_of(folder: Path, **options: Any) -> Encoder:
    return create_teacher("transformers", model=str(folder), **options)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Two photographs, three emoji."""
    shards = open_shards("package://emoji/style-*.tar")
    emoji = [decode(shards.read(number), fields=("image",))["image"] for number in (0, 7, 40)]
    return [Image.fromarray(skimage.data.astronaut()), Image.fromarray(skimage.data.coffee()), *emoji]


def part(teacher: Encoder, number: int) -> Any:
    return getattr(teacher.preprocess, "parts", (teacher.preprocess,))[number]


@pytest.mark.parametrize("size", [None, "other"])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_pictures_are_those_of_the_librarys_own_processor(
    model_folder: Callable[[str], Path], pictures: list[Image.Image], kind: str, size: str | None
) -> None:
    patch = 7 if kind == "dinov2" else 8
    side = 6 * patch
    teacher = teacher_of(model_folder(kind), image_size=side if size else None)
    square = {"height": side, "width": side}
    crops = kind in ("clip", "dinov2")
    options = {"size": {"shortest_edge": side}, "crop_size": square} if crops else {"size": square}
    own = transformers.AutoImageProcessor.from_pretrained(model_folder(kind), **(options if size else {}))
    expected = own(pictures, return_tensors="pt")["pixel_values"]
    preprocess = pickle.loads(pickle.dumps(part(teacher, 0)))
    found = preprocess.collate([preprocess({"image": picture}) for picture in pictures])["image"]
    assert torch.equal(found, expected)
    assert found.shape[-2:] == preprocess.image_size
    assert found.is_contiguous()


@pytest.mark.parametrize(("kind", "dtype"), [("clip", torch.uint8), ("dinov3", torch.float32)])
def test_pictures_travel_as_bytes_where_the_processor_resizes_bytes(
    model_folder: Callable[[str], Path], pictures: list[Image.Image], kind: str, dtype: torch.dtype
) -> None:
    preprocess = part(teacher_of(model_folder(kind)), 0)
    assert preprocess.gather([preprocess({"image": pictures[0]})])["image"].dtype == dtype


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_training_picture_of_the_networks_size_keeps_every_pixel(
    model_folder: Callable[[str], Path], picture: Callable[..., Image.Image], kind: str
) -> None:
    # DINOv2's own processor resizes to more than it crops to; with a size of its own it does not
    preprocess = part(teacher_of(model_folder(kind), image_size=28 if kind == "dinov2" else None), 0)
    image = picture(3, *preprocess.image_size)
    found = preprocess.collate([preprocess({"image": image})])["image"][0]
    mean, std = (
        torch.tensor(getattr(preprocess.processor, name)).view(3, 1, 1) for name in ("image_mean", "image_std")
    )
    pixels = ((found * std + mean) * 255).round().to(torch.uint8)
    assert torch.equal(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_another_image_size_interpolates_positions_as_the_library_does(
    model_folder: Callable[[str], Path], pictures: list[Image.Image]
) -> None:
    for kind in ("clip", "vit", "siglip"):
        folder = model_folder(kind)
        teacher = teacher_of(folder, image_size=48)
        found = teacher.encode(image=pictures, taps=["image.embedding", "image.map"])
        assert found["image.map"].shape == (5, 24, 6, 6)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        images = part(teacher, 0).collate([part(teacher, 0)({"image": picture}) for picture in pictures])["image"]
        with torch.no_grad():
            call = model if kind == "vit" else model.get_image_features
            expected = call(pixel_values=images, interpolate_pos_encoding=True).pooler_output
        assert torch.allclose(found["image.embedding"], expected, atol=1e-6)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_are_those_of_the_librarys_own_tokenizer(model_folder: Callable[[str], Path], kind: str) -> None:
    folder = model_folder(kind)
    preprocess = pickle.loads(pickle.dumps(part(teacher_of(folder), -1)))
    found = preprocess.collate([preprocess({"text": text}) for text in TEXTS])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else True
    expected = tokenizer(TEXTS, padding=padding, truncation=True, max_length=12, return_tensors="pt")
    assert torch.equal(found["text_ids"], expected["input_ids"])
    assert found["text_ids"].shape == (4, 12)
    assert len(found["text_ids"].unique()) > 12
    if kind.startswith("siglip"):  # its texts are 12 long (64 in the published ones), whatever the batch
        assert "attention_mask" not in expected
        assert preprocess.collate([preprocess({"text": "cat"})])["text_ids"].shape == (1, 12)
        assert found["text_mask"].sum(1).tolist()[2] == 12 > found["text_mask"].sum(1).tolist()[0] > 0
    else:
        assert torch.equal(found["text_mask"], expected["attention_mask"])
    assert ("text_types" in found) == ("token_type_ids" in expected)


@pytest.mark.parametrize("kind", [*TOKENIZERS, "deberta"])
def test_padding_does_not_change_a_texts_embedding(model_folder: Callable[[str], Path], kind: str) -> None:
    teacher = teacher_of(model_folder(kind))
    together = teacher.encode(text=TEXTS)["text.embedding"]
    alone = teacher.encode(text=TEXTS, batch_size=1)["text.embedding"]
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[3], atol=1e-2)


def test_real_minilm_texts_are_cut_where_its_positions_end() -> None:
    teacher = create_teacher("transformers", model="all-MiniLM-L6-v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher.preprocess.tokenizer.name_or_path)
    texts = ["a sad cat", "night " * 700, "名前 émoji 😀"]
    expected = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    found = teacher.preprocess.collate([teacher.preprocess({"text": text}) for text in texts])
    assert torch.equal(found["text_ids"], expected["input_ids"])
    assert torch.equal(found["text_types"], expected["token_type_ids"])
    together = teacher.encode(text=texts)["text.embedding"]
    assert torch.allclose(together, teacher.encode(text=texts, batch_size=1)["text.embedding"], atol=1e-5)


def test_robertas_positions_begin_after_the_paddings(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder("roberta"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)  # as many published ones: only the config says a number, two too big
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    teacher = teacher_of(folder)
    assert teacher.model.config.max_position_embeddings == 14
    assert teacher.preprocess.max_length == 12
    assert teacher.encode(text=["night " * 40])["text.embedding"].isfinite().all()


def test_an_identity_names_weights_precision_pixels_and_tokens(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(model_folder("clip"), tmp_path / name)

    first, weights, processor, tokenizer = (copy(name) for name in ("one", "weights", "processor", "tokenizer"))
    tensors = load_file(weights / "model.safetensors")
    tensors["text_model.final_layer_norm.bias"][0] += 1
    save_file(tensors, weights / "model.safetensors", metadata={"format": "pt"})
    for folder, file, key, value in [
        (processor, "preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5]),
        (tokenizer, "tokenizer_config.json", "model_max_length", 7),
    ]:
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | {key: value}))
    teacher = teacher_of(first)
    before = teacher.identity()
    teacher.encode(text=["a cat", "the dog sleeps"])  # a tokenizer remembers how it was last called
    assert teacher.identity() == before == teacher_of(copy("two")).identity()
    others = [teacher_of(folder) for folder in (weights, processor, tokenizer)]
    others += [teacher_of(first, image_size=64), teacher_of(first, dtype="float16")]
    assert len({before, *(other.identity() for other in others)}) == 6
    eager = teacher_of(first, attention="eager")
    assert eager.identity() == before  # the same features, by another kernel


def test_frozen_means_frozen(model_folder: Callable[[str], Path], picture: Callable[..., Image.Image]) -> None:
    teacher = teacher_of(model_folder("clip"))
    before = teacher.state_hash()
    parent = nn.ModuleDict({"teacher": teacher, "student": nn.Linear(10, 4)}).train()
    assert not any(module.training for module in teacher.modules())
    optimizer = torch.optim.SGD(parent.parameters(), lr=1.0)
    inputs = teacher.preprocess.collate([teacher.preprocess({"image": picture(), "text": "a cat"})])
    taps = [tap for tap in teacher.taps() if tap != "text.mask"]
    features = teacher(inputs, taps)
    assert not any(tensor.requires_grad for tensor in features.values())
    parent["student"](features["text.embedding"]).square().mean().backward()
    optimizer.step()
    assert teacher.state_hash() == before
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_picture_and_text_teacher_trains_an_image_student(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = {"name": "transformers", "model": str(model_folder("clip"))}
    run = xmodal.distill(
        {
            "teacher": teacher,
            "student": {"name": "image", "model": "test_efficientnet", "weights": "random"},
            "data": {"train": "package://emoji/names-*.tar", "image_size": 32, "num_workers": 1},
            "objective": [
                {"loss": "feature_cosine", "student": "image.embedding", "teacher": "image.embedding"},
                {
                    "loss": "soft_contrastive",
                    "student": ["image.embedding", "teacher:text.embedding"],
                    "teacher": ["image.embedding", "text.embedding"],
                    "student_scale": 10,
                    "teacher_scale": 10,
                },
            ],
            "train": {"max_steps": 6, "batch_size": 16, "learning_rate": 0.005},
        },
        out=tmp_path / "run",
    )
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["terms"]["feature_cosine"] for line in lines]
    assert losses[-1] < losses[0]
    assert run.student.embed_dim == 10
    assert run.student.metadata["space"]["teacher"] == teacher
