"""Every tap against open_clip's own calls, on models that it built, saved and loaded back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmodal.adapters import Encoder
from xmodal.errors import AdapterError

KINDS = [
    "vit",
    "quickgelu-custom",
    "custom-blocks",
    "resnet",
    "timm",
    "convolutions",
    "attention-pooled",
    "siglip",
    "coca",
    "bert",
]
OWN_TEXT = [kind for kind in KINDS if kind != "bert"]
OWN_VISION = ["vit", "quickgelu-custom", "custom-blocks", "coca", "bert"]

Make = Callable[..., Any]


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-6)


@contextmanager
def ran(model: nn.Module, *names: str) -> Iterator[list[str]]:
    """The modules that run inside, in order."""
    seen: list[str] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, given, made, name=name: seen.append(name))
        for name in names
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_encode_image_and_encode_text(
    kind: str, teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of(kind), reference(kind), inputs_of(kind)
    alone = teacher(inputs, ["image.embedding"]) | teacher(inputs, ["text.embedding"])
    together = teacher(inputs, teacher.taps())
    image, text = (
        model.encode_image(inputs["image"], normalize=False),
        model.encode_text(inputs["text_ids"], normalize=False),
    )
    assert image.std() > 1e-3
    for found in (alone, together):
        assert close(found["image.embedding"], image)
        assert close(found["text.embedding"], text)
    assert teacher.embed_dim == image.shape[1] == text.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_image_layers_are_those_of_forward_intermediates(
    kind: str, teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of(kind), reference(kind), inputs_of(kind)
    found = teacher(inputs, teacher.taps())
    named = {"output_fmt": "NCHW"}
    hidden = model.visual.forward_intermediates(inputs["image"], **named)["image_intermediates"]
    offset = 1 if kind in OWN_VISION else 0  # of open_clip's transformers, 0 is what goes into the first layer
    if offset:
        own = model.visual.forward_intermediates(inputs["image"], output_fmt="NLC", output_extra_tokens=True)
        prefixes = own["image_intermediates_prefix"]
        hidden = [
            torch.cat([prefix, tokens], dim=1)
            for prefix, tokens in zip(prefixes, own["image_intermediates"], strict=True)
        ]
        assert close(found["image.hidden.0"], model.visual._embeds(inputs["image"]))
    assert f"image.hidden.{len(hidden) + offset}" not in found
    for number, states in enumerate(hidden):
        tap = found[f"image.hidden.{number + offset}"]
        expected = states if tap.ndim == states.ndim else states.flatten(2).transpose(1, 2)
        assert close(tap, expected), number
    batch, width, rows, columns = found["image.map"].shape
    assert found["image.tokens"].shape == (batch, rows * columns, width)
    assert torch.equal(found["image.tokens"].transpose(1, 2).unflatten(2, (rows, columns)), found["image.map"])


@torch.no_grad()
@pytest.mark.parametrize("kind", OWN_TEXT)
def test_text_layers_are_those_of_forward_intermediates(
    kind: str, teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of(kind), reference(kind), inputs_of(kind)
    found = teacher(inputs, teacher.taps())
    own = model.forward_intermediates(text=inputs["text_ids"], normalize=False)
    assert len(own["text_intermediates"]) == 3
    for number, states in enumerate(own["text_intermediates"], 1):
        assert close(found[f"text.hidden.{number}"], states)
    tower = getattr(model, "text", model)
    length = inputs["text_ids"].shape[1]
    embedded = tower.token_embedding(inputs["text_ids"]) + tower.positional_embedding[:length]
    assert close(found["text.hidden.0"], embedded)
    assert found["text.mask"].shape == found["text.hidden.0"].shape[:2]


@torch.no_grad()
def test_tokens_and_pooled_features_are_open_clips_own(teacher_of: Make, reference: Make, inputs_of: Make) -> None:
    """``output_tokens`` makes its towers return the tokens; a tower without a projection, its features."""
    for kind in ("vit", "quickgelu-custom", "custom-blocks"):
        inputs, (model, _, _) = inputs_of(kind), reference(kind)
        found = teacher_of(kind)(inputs, ["image.tokens", "image.features", "text.tokens", "text.features"])
        visual, projection = model.visual, model.visual.proj
        try:
            visual.output_tokens, visual.proj = True, None
            features, tokens = visual(inputs["image"])
        finally:
            visual.output_tokens, visual.proj = False, projection
        assert close(found["image.features"], features)
        assert close(found["image.tokens"], tokens)
        assert close(found["text.features"] @ getattr(model, "text", model).text_projection,
                     model.encode_text(inputs["text_ids"]))  # fmt: skip
    inputs, (model, _, _) = inputs_of("timm"), reference("timm")
    found = teacher_of("timm")(inputs, ["image.features", "image.tokens"])
    assert close(found["image.features"], model.visual.trunk(inputs["image"]))
    assert close(found["image.tokens"], model.visual.trunk.forward_features(inputs["image"])[:, 1:])


@torch.no_grad()
def test_attention_is_what_torchs_own_layer_returns_when_it_is_asked(
    teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of("vit"), reference("vit"), inputs_of("vit")
    found = teacher(inputs, teacher.taps())
    for modality, transformer in (("image", model.visual.transformer), ("text", model.transformer)):
        for number, block in enumerate(transformer.resblocks):
            states = block.ln_1(found[f"{modality}.hidden.{number}"])
            mask = model.attn_mask if modality == "text" else None
            _, expected = block.attn(states, states, states, attn_mask=mask, average_attn_weights=False)
            attention, scores = found[f"{modality}.attention.{number}"], found[f"{modality}.scores.{number}"]
            assert close(attention, expected)
            assert close(scores.softmax(-1), attention)
            key = nn.functional.linear(states, *(part.chunk(3)[1] for part in _in_projection(block.attn)))
            assert close(found[f"{modality}.key.{number}"], key)
            heads = [
                found[f"{modality}.{what}.{number}"].unflatten(-1, (4, -1)).transpose(1, 2)
                for what in ("query", "value")
            ]
            merged = (attention @ heads[1]).transpose(1, 2).flatten(2)
            own = block.attn(states, states, states, attn_mask=mask)[0]
            assert close(block.attn.out_proj(merged), own)
    assert torch.isneginf(found["text.scores.0"].triu(1)[..., 0, 1:]).all()


def _in_projection(attention: Any) -> tuple[Tensor, Tensor]:
    return attention.in_proj_weight, attention.in_proj_bias


def test_blocks_of_open_clips_own_attention_have_no_attention_taps(teacher_of: Make) -> None:
    taps = teacher_of("custom-blocks").taps()
    assert "image.attention.0" not in taps
    assert {"image.hidden.0", "text.attention.0"} <= set(taps)


@torch.no_grad()
def test_a_transformers_text_tower_gives_its_own_hidden_states(
    teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of("bert"), reference("bert"), inputs_of("bert")
    found = teacher(inputs, teacher.taps())
    tower = model.text.transformer
    tower.set_attn_implementation("eager")
    mask = (inputs["text_ids"] != 0).long()
    expected = tower(inputs["text_ids"], mask, output_hidden_states=True, output_attentions=True)
    assert len(expected.hidden_states) == 3
    for number, states in enumerate(expected.hidden_states):
        assert close(found[f"text.hidden.{number}"], states)
    for number, attention in enumerate(expected.attentions):
        assert close(found[f"text.attention.{number}"], attention)
    assert torch.equal(found["text.mask"], mask.bool())
    assert close(model.text.proj(found["text.features"]), found["text.embedding"])


@torch.no_grad()
def test_coca_reads_pictures_and_writes_captions_as_its_own_forward(
    teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = teacher_of("coca"), reference("coca"), inputs_of("coca")
    own = model(inputs["image"], inputs["text_ids"], output_labels=False)
    found = teacher(inputs, ["text.logits", "image.pooled"])
    assert close(found["text.logits"], own["logits"])
    assert close(found["image.pooled"], model(inputs["image"])["image_embs"])
    with pytest.raises(AdapterError, match=r"text\.logits needs the image of a sample"):
        teacher.encode(text=["a cat"], taps=["text.logits"])


@torch.no_grad()
def test_no_attention_of_coca_sees_the_class_token_behind_the_text(teacher_of: Make, inputs_of: Make) -> None:
    found = teacher_of("coca")(inputs_of("coca"), ["text.attention.0", "text.hidden.0", "text.query.0"])
    assert found["text.attention.0"].shape == (4, 4, 16, 16)
    assert torch.allclose(found["text.attention.0"].sum(-1), torch.ones(4, 4, 16), atol=1e-6)
    assert found["text.query.0"].shape == found["text.hidden.0"].shape


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm", "coca", "bert"])
def test_each_tap_alone_is_what_it_is_together(kind: str, teacher_of: Make, inputs_of: Make) -> None:
    teacher, inputs = teacher_of(kind), inputs_of(kind)
    together = teacher(inputs, teacher.taps())
    assert set(together) == set(teacher.taps())
    for tap in teacher.taps():
        alone = teacher(inputs, [tap])
        assert list(alone) == [tap]
        assert close(alone[tap], together[tap]), tap
        assert alone[tap].dtype == (torch.bool if tap == "text.mask" else torch.float32)


def test_scale_and_bias_are_the_models_own(teacher_of: Make, reference: Make, inputs_of: Make) -> None:
    siglip, clip = teacher_of("siglip"), teacher_of("vit")
    inputs, (model, _, _) = inputs_of("siglip"), reference("siglip")
    found = siglip(inputs, ["image.embedding", "text.embedding", "logit_scale", "logit_bias"])
    image, text = (nn.functional.normalize(found[f"{of}.embedding"], dim=-1) for of in ("image", "text"))
    with torch.no_grad():
        own, _ = model.get_logits(inputs["image"], inputs["text_ids"])
    assert torch.allclose(found["logit_scale"] * image @ text.T + found["logit_bias"], own, atol=1e-5)
    assert siglip.logit_bias == -10
    assert siglip.logit_scale == pytest.approx(found["logit_scale"].item())
    assert clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert clip.logit_bias is None
    assert "logit_bias" not in clip.taps()
    assert siglip.encode(text=["a", "b"], taps=["logit_bias"])["logit_bias"].item() == -10


def test_xmodals_losses_of_its_own_scale_are_open_clips(teacher_of: Make, reference: Make, inputs_of: Make) -> None:
    from open_clip.loss import ClipLoss, SigLipLoss

    from xmodal.losses import LOSSES

    for kind, own, name in (("siglip", SigLipLoss(), "siglip"), ("vit", ClipLoss(), "clip_contrastive")):
        teacher, inputs = teacher_of(kind), inputs_of(kind)
        numbers = {"logit_scale": teacher.logit_scale}
        if teacher.logit_bias is not None:
            numbers["logit_bias"] = teacher.logit_bias
        found = teacher(inputs, ["image.embedding", "text.embedding"])
        with torch.no_grad():
            expected = own(*reference(kind)[0](inputs["image"], inputs["text_ids"]))
        assert torch.allclose(LOSSES[name].function(*found.values(), **numbers), expected, atol=1e-5)


def test_a_tower_that_is_not_asked_for_does_not_run_and_layers_stop_early(teacher_of: Make, inputs_of: Make) -> None:
    names = ("visual.conv1", "visual.transformer.resblocks.1", "visual.transformer.resblocks.2", "visual.ln_post")
    texts = ("transformer.resblocks.0", "transformer.resblocks.2", "ln_final")
    cases = {
        "text.mask": [],
        "logit_scale": [],
        "image.hidden.0": names[:1],
        "image.hidden.2": names[:2],
        "image.attention.1": names[:2],
        "image.embedding": names,
        "text.hidden.0": [],
        "text.hidden.1": texts[:1],
        "text.embedding": texts,
    }
    teacher = teacher_of("vit")
    for tap, expected in cases.items():
        with ran(teacher.model, *names, *texts) as seen:
            teacher(inputs_of("vit"), [tap])
        assert seen == list(expected), tap
    with ran(teacher_of("resnet").model.visual, "layer1", "layer2", "attnpool") as seen:
        teacher_of("resnet")(inputs_of("resnet"), ["image.hidden.1"])
    assert seen == ["layer1"]


@pytest.mark.parametrize("kind", ["vit", "resnet", "siglip"])
def test_frozen_is_frozen(kind: str, saved: Make, inputs_of: Make, photos: list[Any]) -> None:
    from xmodal.adapters import create_teacher

    teacher: Encoder = create_teacher("open_clip", model=f"local-dir:{saved(kind)}")
    before = teacher.state_hash()
    nn.ModuleDict({"teacher": teacher, "student": nn.Linear(2, 2)}).train()
    assert not any(module.training for module in teacher.modules())
    features = teacher(inputs_of(kind), teacher.taps())
    assert not any(tensor.requires_grad for tensor in features.values())
    teacher.encode(image=photos)
    assert teacher.state_hash() == before


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_half_precision_is_open_clips_and_features_come_out_as_float32(
    kind: str, precision: str, teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _) = teacher_of(kind, precision=precision), reference(kind, precision=precision)
    inputs = inputs_of(kind)
    found = teacher(inputs, teacher.taps())
    image = model.encode_image(inputs["image"].bfloat16(), normalize=False).float()
    text = model.encode_text(inputs["text_ids"], normalize=False).float()
    assert torch.allclose(found["image.embedding"], image, atol=0.02, rtol=0.02)
    assert torch.allclose(found["text.embedding"], text, atol=0.02, rtol=0.02)
    assert {tensor.dtype for tap, tensor in found.items() if tap != "text.mask"} == {torch.float32}
    assert teacher.identity() != teacher_of(kind).identity()


@torch.no_grad()
def test_a_precision_that_open_clip_itself_cannot_run_is_said(
    teacher_of: Make, reference: Make, inputs_of: Make
) -> None:
    teacher, (model, _, _), inputs = (
        teacher_of("coca", precision="bf16"),
        reference("coca", precision="bf16"),
        inputs_of("coca"),
    )
    with pytest.raises(RuntimeError, match="dtype"):
        model.encode_text(inputs["text_ids"])
    with pytest.raises(AdapterError, match=r"precision 'bf16'.* Take precision: pure_bf16"):
        teacher(inputs, ["text.embedding"])
    assert teacher_of("coca", precision="pure_bf16")(inputs, ["text.embedding"])["text.embedding"].isfinite().all()
