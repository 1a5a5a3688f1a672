"""A small CLIP out of a bigger one: the same tensors as by plain slicing, one set of channels everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from xmodal.adapters import create_student
from xmodal.adapters.inheritance import choose, choose_layers
from xmodal.adapters.open_clip.inherit import inherit_clip
from xmodal.adapters.open_clip.sources import CONFIG
from xmodal.errors import AdapterError
from xmodal.export import load_student, save_student
from xmodal.recipes import check, load_recipe

BIG: dict[str, Any] = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 12, "layers": 5},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 4},
}
SMALL: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {**BIG["vision_cfg"], "width": 24, "layers": 2, "mlp_ratio": 3.0},
    "text_cfg": {**BIG["text_cfg"], "width": 16, "heads": 2, "layers": 2},
}
BOTH = ["image.embedding", "text.embedding"]
TEXTS = ["a photo of a cat", "three red cars"]


def changed(base: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {
        **base,
        **{key: {**base[key], **value} if isinstance(value, dict) else value for key, value in parts.items()},
    }


def model(config: Mapping[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made: Any = create_student("open_clip", model=config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made


def photos() -> list[Image.Image]:
    return [Image.fromarray(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")]


def parts(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize("custom", [False, True])
def test_inheriting_everything_is_the_same_model(custom: bool) -> None:
    """Also between a plain CLIP and one whose text tower is a module of its own."""
    big = model(BIG)
    small = model({**BIG, "custom_text": custom}, seed=1)
    for options in ({}, {"channels": "important", "heads": "important", "norm": "l1"}):
        small.model.load_state_dict(inherit_clip(small.model, big.model, options))
        ours, theirs = (each.encode(image=photos(), text=TEXTS) for each in (small, big))
        assert all(torch.equal(ours[tap], theirs[tap]) for tap in BOTH)


def test_the_first_of_everything_are_plain_slices() -> None:
    """As TinyCLIP's own code has it: every second layer, and of each tensor the front."""
    small, big = model(SMALL, seed=1).model, model(BIG).model
    theirs, heads = big.state_dict(), {"visual.": (4, 2, 12), "": (4, 2, 8)}
    for name, tensor in inherit_clip(small, big, {}).items():
        source, prefix = name, "visual." if name.startswith("visual.") else ""
        if "resblocks" in name:
            before, _, rest = name.partition("resblocks.")
            number, _, rest = rest.partition(".")
            source = f"{before}resblocks.{2 * int(number)}.{rest}"
        value = theirs[source]
        if "in_proj" in name:
            of_big, of_small, width = heads[prefix]
            value = value.reshape(3, of_big, width, *value.shape[1:])[:, :of_small].flatten(0, 2)
        assert torch.equal(tensor, value[tuple(slice(size) for size in tensor.shape)]), name


def test_the_important_ones_are_found_wherever_they_are() -> None:
    """A small model is hidden in a bigger one of zeros; other channels, neurons and heads at every place that may."""
    small, big = model(SMALL).model, model(BIG, seed=1).model
    hidden = {name: torch.zeros_like(tensor) for name, tensor in big.state_dict().items()}
    generator = torch.Generator().manual_seed(2)

    def some(total: int, count: int) -> Tensor:
        return torch.randperm(total, generator=generator)[:count].sort().values

    embedding, layers = some(20, 12), {"visual.": [1, 4], "": [0, 3]}
    for prefix, (wide, narrow, width, neurons, few) in {
        "visual.": (48, 24, 12, 192, 72),
        "": (32, 16, 8, 128, 64),
    }.items():
        channels = some(wide, narrow)
        own = {name: value for name, value in small.state_dict().items() if name.startswith("visual.") == bool(prefix)}
        for number, layer in enumerate(layers[prefix]):
            heads, inner = some(wide // width, narrow // width), some(neurons, few)
            rows = torch.cat([torch.arange(head * width, (head + 1) * width) for head in heads.tolist()])
            qkv = torch.cat([rows, rows + wide, rows + 2 * wide])
            axes = {
                "attn.in_proj_weight": (qkv, channels),
                "attn.in_proj_bias": (qkv,),
                "attn.out_proj.weight": (channels, rows),
                "mlp.c_fc.weight": (inner, channels),
                "mlp.c_fc.bias": (inner,),
                "mlp.c_proj.weight": (channels, inner),
            }
            stem = f"{prefix}transformer.resblocks."
            for name, value in parts(own, f"{stem}{number}.").items():
                places = axes.get(name, (channels,))
                hidden[f"{stem}{layer}.{name}"][torch.meshgrid(*places, indexing="ij")] = value
        outside = dict.fromkeys(("proj", "text_projection"), (channels, embedding)) | {"conv1.weight": (channels,)}
        for name, value in own.items():
            if "resblocks" not in name and not name.startswith("logit"):
                usual = (torch.arange(len(value)), channels) if value.ndim == 2 else (channels,)
                places = outside.get(name.removeprefix(prefix), usual)
                hidden[name][torch.meshgrid(*places, indexing="ij")] = value
    hidden["logit_scale"] = small.logit_scale.detach()
    big.load_state_dict(hidden)
    by_tower = {"image": layers["visual."], "text": layers[""]}
    found = inherit_clip(small, big, {"channels": "important", "heads": "important", "layers": by_tower})
    for name, tensor in small.state_dict().items():
        assert torch.equal(found[name], tensor), name


@given(st.integers(1, 24), st.data())
def test_layers_rise_and_are_as_many_as_asked_for(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total))
    for how in ("even", "spread", "first"):
        layers = choose_layers(how, total, count)
        assert len(layers) == count
        assert layers == sorted({layer for layer in layers if 0 <= layer < total})
    assert choose_layers("spread", total, total) == choose_layers("even", total, total) == list(range(total))


@given(st.integers(1, 12), st.integers(0, 100), st.sampled_from(["l1", "l2"]), st.data())
def test_no_number_left_out_is_larger_than_one_taken(size: int, seed: int, norm: str, data: st.DataObject) -> None:
    rows = torch.randn(size, 3, 2, generator=torch.Generator().manual_seed(seed))
    count = data.draw(st.integers(1, size))
    taken = choose(count, [rows], "important", norm).tolist()
    sizes = rows.abs().sum((1, 2)) if norm == "l1" else rows.square().sum((1, 2)).sqrt()
    assert taken == sorted(set(taken))
    assert len(taken) == count
    left = [sizes[number].item() for number in range(size) if number not in taken]
    assert max(left, default=0) <= min(sizes[taken]).item() + 1e-6


@pytest.mark.parametrize(
    ("small", "options", "said"),
    [
        (changed(SMALL, vision_cfg={"patch_size": 16}), {}, r"patch size is \(16, 16\), .* inherit from \(8, 8\)"),
        (changed(SMALL, text_cfg={"vocab_size": 100}), {}, "vocabulary is 100, .* inherit from 49408"),
        (changed(SMALL, text_cfg={"heads": 4}), {}, "heads are 4 wide, those to inherit 8"),
        (changed(SMALL, quick_gelu=True), {}, "activation is QuickGELU, .* GELU"),
        (changed(SMALL, text_cfg={"no_causal_mask": True}), {}, "mask is False"),
        (changed(SMALL, text_cfg={"layers": 6}), {}, "layers 6 cannot be inherited from one with 4"),
        (changed(SMALL, text_cfg={"mlp_ratio": 20.0}), {}, "neurons 320 cannot be inherited from one with 128"),
        (changed(SMALL, embed_dim=24), {}, "embedding of 24 cannot be inherited from one of 20"),
        (changed(SMALL, vision_cfg={"ls_init_value": 0.1}), {}, "not of one family: visual.transformer.*ls_1.gamma"),
        (changed(SMALL, vision_cfg={"no_ln_pre": True}), {}, "not of one family: visual.ln_pre"),
        (SMALL, {"layers": [0, 1, 2]}, "names 3 layers; the student's tower has 2"),
        (SMALL, {"layers": [0, 7]}, "0 … 4"),
        (
            changed(SMALL, vision_cfg={"timm_model_name": "test_efficientnet", "image_size": 64}),
            {},
            "The student has the image tower TimmModel",
        ),
    ],
)
def test_what_cannot_be_inherited_is_said(small: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        inherit_clip(model(small).model, model(BIG).model, options)


def test_a_student_inherits_by_its_options_from_a_folder(tmp_path: Path) -> None:
    big = model(changed(BIG, vision_cfg={"image_size": 64}, text_cfg={"context_length": 20}))
    big.pictures.config |= {"mean": [0.5, 0.4, 0.3], "std": [0.25] * 3}
    source = {"model": f"local-dir:{save_student(big, tmp_path / 'big')}"}
    options = {**source, "layers": "spread", "channels": "important", "heads": "important", "norm": "l1"}
    student: Any = create_student("open_clip", model=SMALL, weights="inherit", inherit=options)
    assert student.training
    assert student.pictures.config["mean"] == [0.5, 0.4, 0.3]  # its weights know pictures of this normalisation
    assert student.pictures.image_size == (32, 32)
    assert student.logit_scale == pytest.approx(big.logit_scale)
    bias = big.model.transformer.resblocks[3].mlp.c_proj.bias
    own = student.model.transformer.resblocks[1].mlp.c_proj.bias
    assert torch.isin(own, bias).all()
    folder = save_student(student, tmp_path / "small")
    again, (alone, _) = load_student(folder), open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    assert again.state_hash() == student.state_hash()
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert torch.allclose(alone.eval().encode_text(ids), student.encode(text=TEXTS)["text.embedding"], atol=1e-6)
    assert (folder / CONFIG).is_file()


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ({"weights": "inherit"}, "inherit", "give both, or neither"),
        ({"inherit": {"model": "ViT-B-32"}}, "inherit", "give both, or neither"),
        ({"weights": "inherit", "inherit": {}}, "inherit.model", "is missing"),
        ({"weights": "inherit", "inherit": {"model": "ViT-B-23"}}, "inherit.model", "Nearest: ViT-B-32"),
        ({"weights": "inherit", "inherit": {"model": "ViT-B-32", "layer": 1}}, "inherit.layer", "Nearest: layers"),
        ({"weights": "inherit", "inherit": {"model": "ViT-B-32", "heads": "last"}}, "inherit.heads", "none of first"),
        ({"weights": "inherit", "inherit": {"model": "ViT-B-32", "layers": {"image": [1]}}}, "inherit.layers", "both"),
    ],
)
def test_mistakes_of_the_options_are_found_before_anything_is_made(options: Any, key: str, said: str) -> None:
    made = {"name": "open_clip", "model": SMALL, **options}
    teacher = {"name": "open_clip", "model": "ViT-S-32-alt", "pretrained": False}
    term = {"loss": "soft_contrastive", "student": BOTH, "teacher": BOTH, "student_scale": 10, "teacher_scale": 14}
    (mistake,) = check(
        load_recipe(
            {
                "teacher": teacher,
                "student": made,
                "data": {"train": "package://emoji/style-*.tar"},
                "objective": [term],
                "train": {"max_steps": 1},
            }
        )
    )
    assert mistake.path == f"student.{key}"
    assert said in mistake.message
    with pytest.raises(AdapterError, match=said):
        create_student(**made)
