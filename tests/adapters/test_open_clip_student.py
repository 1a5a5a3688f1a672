"""An open_clip student: open_clip's own outputs, saved as open_clip's own folder, taught by an open_clip teacher."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import skimage.data
import torch
import transformers
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from rich.console import Console

import xmodal
from xmodal.adapters import Encoder, create_student, create_teacher
from xmodal.errors import AdapterError
from xmodal.export import load_student, save_student
from xmodal.recipes import load_recipe
from xmodal.recipes.checking import check

BOTH = ["image.embedding", "text.embedding"]
TEXT: dict[str, Any] = {"context_length": 16, "width": 16, "heads": 2, "layers": 2}
VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 24, "head_width": 12, "layers": 2}
TINY: dict[str, Any] = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (TINY, {}),
    "siglip": ({**TINY, "custom_text": True, "init_logit_bias": -10, "init_logit_scale": 2.3}, {}),
    "resized": ({"name": "ViT-S-32-alt", **TINY}, {"image_size": 48, "context_length": 9}),
    "timm": ({**TINY, "vision_cfg": TIMM}, {"image_size": 160}),
    "convolutions": (
        {**TINY, "vision_cfg": {**TIMM, "timm_model_name": "test_efficientnet", "timm_pool": "avg"}},
        {"image_size": 64},
    ),
    "coca": (
        {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
            "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**TEXT, "layers": 1},
        },
        {},
    ),
}
TEXTS = ["a photo of a cat", "", "The big red car plays in the grass and sleeps under the bridge, night after night."]


def photos() -> list[Image.Image]:
    return [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee", "rocket")]


def make(model: Any = TINY, **options: Any) -> Encoder:
    torch.manual_seed(0)
    student = create_student("open_clip", model=model, **options)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)  # open_clip begins with zeros and ones
    return student


def embed(folder: Path) -> dict[str, Any]:
    """What open_clip makes of the photos and texts with the model in a folder."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.inference_mode():
        return {
            "image.embedding": model.encode_image(torch.stack([*map(transform, photos())]), normalize=False),
            "text.embedding": model.encode_text(tokenizer(TEXTS), normalize=False),
            "ids": tokenizer(TEXTS),
        }


@pytest.mark.parametrize("kind", MODELS)
def test_the_saved_student_is_the_same_model_in_open_clip(kind: str, tmp_path: Path) -> None:
    model, options = MODELS[kind]
    student = make(model, **options)
    ours = student.encode(image=photos(), text=TEXTS, taps=BOTH)
    metadata = {"steps": 3}
    theirs = embed(save_student(student, tmp_path / "student", metadata))
    again = load_student(tmp_path / "student")
    for tap in BOTH:
        assert torch.allclose(ours[tap], theirs[tap], atol=1e-6), tap
        assert ours[tap].shape == (3, student.embed_dim)
        assert torch.equal(again.encode(image=photos(), text=TEXTS, taps=BOTH)[tap], ours[tap])
    assert theirs["ids"].shape[1] == options.get("context_length", 16)
    assert again.state_hash() == student.state_hash()
    assert again.identity() == student.identity()
    assert again.taps() == student.taps()
    assert again.metadata == metadata
    assert again.spec == {"name": "open_clip", "model": model, **options}
    assert not again.training


def test_it_loads_where_there_is_no_xmodal(tmp_path: Path) -> None:
    student = make()
    save_student(student, tmp_path / "student")
    code = (
        "import sys; sys.modules['xmodal'] = None\n"
        "import open_clip, torch\n"
        f"name = 'local-dir:{tmp_path}/student'\n"
        "model, _, transform = open_clip.create_model_and_transforms(name)\n"
        f"ids = open_clip.get_tokenizer(name)({TEXTS!r})\n"
        "with torch.inference_mode():\n"
        f"    torch.save(model.eval().encode_text(ids), '{tmp_path}/alone.pt')\n"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    alone = torch.load(tmp_path / "alone.pt", weights_only=True)
    assert torch.allclose(alone, student.encode(text=TEXTS)["text.embedding"], atol=1e-6)


def test_a_tokenizer_of_its_own_is_saved_with_it(tiny_bert: Path, tmp_path: Path) -> None:
    text = {**TEXT, "vocab_size": 64, "hf_tokenizer_name": str(tiny_bert), "no_causal_mask": True, "pool_type": "last"}
    student = make({**TINY, "custom_text": True, "text_cfg": text})
    folder = save_student(student, tmp_path / "student")
    assert transformers.AutoTokenizer.from_pretrained(folder).get_vocab().keys() >= {"cat", "##s"}
    theirs = embed(folder)
    assert torch.equal(theirs["ids"], HFTokenizer(str(tiny_bert), context_length=16)(TEXTS))
    assert torch.allclose(theirs["text.embedding"], student.encode(text=TEXTS)["text.embedding"], atol=1e-6)


def test_a_folder_of_open_clips_own_is_a_student_too(tmp_path: Path) -> None:
    folder = save_student(make(), tmp_path / "one")
    config = json.loads((folder / "open_clip_config.json").read_text())
    del config["xmodal"]
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    foreign = load_student(folder)
    assert foreign.metadata == {}
    started = create_student("open_clip", model=f"local-dir:{folder}", weights="pretrained")
    assert started.training
    assert started.state_hash() == foreign.state_hash()
    save_student(started, tmp_path / "two")
    assert torch.equal(embed(folder)["image.embedding"], embed(tmp_path / "two")["image.embedding"])


def test_weights_come_from_a_file_at_another_size(tmp_path: Path) -> None:
    bigger = make(image_size=64, context_length=20)
    file = save_student(bigger, tmp_path / "student") / "open_clip_model.safetensors"
    student = create_student("open_clip", model=TINY, weights=str(file))
    bigger_visual: Any = bigger.model.visual
    visual: Any = student.model.visual
    assert torch.equal(visual.conv1.weight, bigger_visual.conv1.weight)
    assert visual.positional_embedding.shape[0] == 17  # interpolated from 65
    assert student.texts.tokenizer.context_length == 16  # type: ignore[attr-defined]


def test_it_trains_as_the_teacher_of_its_weights_looks(tmp_path: Path) -> None:
    student = make()
    teacher = create_teacher("open_clip", model=f"local-dir:{save_student(student, tmp_path / 'student')}")
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.taps() == teacher.taps()
    inputs = student.preprocess.collate(
        [student.preprocess({"image": photo, "text": text}) for photo, text in zip(photos(), TEXTS, strict=True)]
    )
    features = student(inputs, student.taps())
    for tap, tensor in teacher(inputs, teacher.taps()).items():
        # in eval mode torch takes a fused kernel, which rounds otherwise
        assert torch.allclose(features[tap], tensor, atol=1e-5), tap
    (features["image.embedding"].sum() + features["text.embedding"].sum()).backward()
    silent = {name for name, parameter in student.named_parameters() if parameter.grad is None}
    assert silent == {"model.logit_scale"}  # which no tap of these needs
    student(inputs, ["logit_scale"])["logit_scale"].backward()
    assert student.model.logit_scale.grad.item() == pytest.approx(1 / 0.07)  # type: ignore[union-attr, operator]


def test_it_is_copied_pickled_and_named_by_its_weights(tmp_path: Path) -> None:
    student = make()
    copied = copy.deepcopy(student)
    before = student.identity()
    with torch.no_grad():
        copied.model.visual.proj.add_(1)  # type: ignore[union-attr, operator]
    assert student.identity() == before != copied.identity()
    ours, theirs = (each.encode(image=photos())["image.embedding"] for each in (student, copied))
    assert not torch.allclose(ours, theirs)  # the copy's towers are its own
    assert len(pickle.dumps(student.preprocess)) < 10_000


def test_patch_dropout_leaves_only_what_is_pooled() -> None:
    student = make({**TINY, "vision_cfg": {**VISION, "patch_dropout": 0.5}})
    assert [tap for tap in student.taps() if tap.startswith("image.")] == ["image.embedding", "image.features"]
    images = torch.randn(2, 3, 32, 32)
    one, other = (student({"image": images}, ["image.embedding"])["image.embedding"] for _ in range(2))
    assert not torch.equal(one, other)
    student.eval()
    assert torch.equal(*(student({"image": images}, ["image.embedding"])["image.embedding"] for _ in range(2)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "ViT-S-32-atl"}, "'ViT-S-32-atl' is not an open_clip model. Nearest: ViT-S-32-alt"),
        ({"model": {"name": "ViT-S-32-atl"}}, "Nearest: ViT-S-32-alt"),
        ({"model": {**TINY, "vision_cfg": {"lyers": 3}}}, "vision_cfg.lyers: no such key. Nearest: layers"),
        ({"model": {**TINY, "embed_dm": 3}}, "embed_dm: no such key. Nearest: embed_dim"),
        ({"model": {"embed_dim": 3, "text_cfg": TEXT}}, "vision_cfg: is missing"),
        ({"model": {**TINY, "text_cfg": 4}}, "text_cfg: is to be a mapping; given 4"),
        ({"model": "ViT-B-32", "weights": "opnai"}, "Tags: openai, laion400m_e31"),
        ({"model": "ViT-B-32", "weights": "pretrained"}, "say which weights are meant"),
        ({"model": TINY, "weights": "openai"}, "open_clip has no weights for this model"),
        ({"model": TINY, "weights": "/nowhere/weights.safetensors"}, "there is no such tag or file"),
    ],
)
def test_mistakes_are_named_by_the_recipe_and_by_create_student(options: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapterError) as caught:
        create_student("open_clip", **options)
    assert said in str(caught.value)
    (mistake,) = check(load_recipe(recipe("ViT-S-32-alt", options)))
    assert said in f"{mistake.path}: {mistake.message}"
    assert mistake.path.split(".")[:2] in (["student", "model"], ["student", "weights"])


def test_no_random_weight_is_what_lay_in_memory() -> None:
    config, options = MODELS["coca"]
    torch.use_deterministic_algorithms(True)  # torch.empty is full of NaN then
    try:
        hashes = [make(config, **options).state_hash() for _ in range(2)]
        student = make(config, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert hashes == [student.state_hash()] * 2


def test_a_size_that_no_folder_can_say_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"test_vit for pictures of 160 x 160 pixels.*Give image_size 160"):
        create_student("open_clip", model={**TINY, "vision_cfg": TIMM}, image_size=64)


def recipe(teacher: str, student: dict[str, Any]) -> dict[str, Any]:
    terms = [
        {"loss": "clip_contrastive", "student": BOTH, "logit_scale": {"learn": 14.3}},
        {"loss": "soft_contrastive", "student": BOTH, "teacher": BOTH, "student_scale": 10, "teacher_scale": 14},
        {"loss": "feature_mse", "student": "image.hidden.-1", "teacher": "image.hidden.-1", "projection": "linear"},
    ]
    return {
        "teacher": {"name": "open_clip", "model": teacher, **({} if ":" in teacher else {"pretrained": False})},
        "student": {"name": "open_clip", **student},
        "data": {"train": "package://emoji/style-*.tar", "image_size": 32, "num_workers": 0},
        "objective": terms,
        "train": {"max_steps": 2, "batch_size": 8, "learning_rate": 0.002, "device": "cpu"},
    }


def test_a_tiny_clip_learns_from_a_bigger_one(tmp_path: Path) -> None:
    wide = {**TINY, "embed_dim": 28, "vision_cfg": {**VISION, "width": 48}, "text_cfg": {**TEXT, "width": 32}}
    teacher = save_student(make(wide), tmp_path / "teacher")
    run = xmodal.distill(
        recipe(f"local-dir:{teacher}", {"model": TINY}), out=tmp_path / "run", console=Console(quiet=True)
    )
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    values = [value for line in lines if "terms" in line for value in line["terms"].values()]
    assert len(values) == 6
    assert all(math.isfinite(value) for value in values)
    student: Any = run.student
    assert student.logit_scale == pytest.approx(1 / 0.07)  # the objective learns a scale of its own
    theirs = embed(run.folder / "student")
    assert torch.allclose(theirs["text.embedding"], student.encode(text=TEXTS)["text.embedding"], atol=1e-6)
    card = (run.folder / "student" / "README.md").read_text(encoding="utf-8")
    assert "library_name: open_clip" in card
    assert "create_model_and_transforms" in card
