"""A small model of every architecture, built and saved by open_clip, in folders that it loads; real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import skimage.data
import torch
import transformers
from open_clip.push_to_hf_hub import save_config_for_hf, save_for_hf
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from xmodal.adapters import Encoder, create_teacher

TEXTS = [
    "a photo of a cat",
    "!!! wow, 100% <b>bold</b> &amp; an emoji 😀 ¡ñandú!",
    "",
    "The big red car plays in the grass and sleeps under the bridge, night after night after night.",
]
TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 12, "layers": 3}
COCA_VISION = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6}
SIGLIP_TEXT = {
    **TEXT,
    "vocab_size": 200,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
DECODER = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "quickgelu-custom": {
        "embed_dim": 24,
        "quick_gelu": True,
        "custom_text": True,
        "vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407},
    },
    "custom-blocks": {
        "embed_dim": 24,
        "vision_cfg": {**VISION, "qk_norm": True, "no_ln_pre": True},
        "text_cfg": {**TEXT, "ls_init_value": 0.1},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 32},
        "text_cfg": TEXT,
    },
    "timm": {"embed_dim": 24, "vision_cfg": TIMM, "text_cfg": TEXT},
    "convolutions": {
        "embed_dim": 24,
        "vision_cfg": {**TIMM, "timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "mlp"},
        "text_cfg": TEXT,
    },
    "attention-pooled": {
        "embed_dim": 24,
        "vision_cfg": {**TIMM, "timm_model_name": "test_efficientnet", "timm_pool": "rot_attn", "timm_proj": ""},
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 64,
        "init_logit_scale": 2.3,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**TIMM, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": SIGLIP_TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {**COCA_VISION, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": DECODER,
    },
    "bert": {
        "embed_dim": 24,
        "vision_cfg": VISION,
        "text_cfg": {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 16},
    },
}
PREPROCESS: dict[str, dict[str, Any]] = {
    "siglip": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    "convolutions": {
        "mean": [0.48, 0.45, 0.4],
        "std": [0.2] * 3,
        "interpolation": "bilinear",
        "resize_mode": "longest",
    },
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Callable[[str], Path]:
    """The folder of a kind's model, made at the first call: ``saved("coca")``."""

    @lru_cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        config = deepcopy(CONFIGS[kind])
        tokenizer = None
        if kind == "bert":
            config["text_cfg"] |= {"hf_model_name": str(tiny_bert), "hf_tokenizer_name": str(tiny_bert)}
            tokenizer = HFTokenizer(str(tiny_bert))
        if kind == "siglip":
            siglip_tokenizer().save_pretrained(folder)
            tokenizer = HFTokenizer(str(folder))
            config["text_cfg"]["hf_tokenizer_name"] = "someone/siglip"
        told = {"model_cfg": config, "preprocess_cfg": PREPROCESS.get(kind, {})}
        (folder / "open_clip_config.json").write_text(json.dumps(told))
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim and not name.startswith("logit"):  # open_clip begins with zeros and ones here
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 2)
        if kind == "coca":  # open_clip leaves it as it was in memory
            torch.nn.init.normal_(model.text_decoder.text_projection, std=0.2)
        if tokenizer is None:
            save_file(model.state_dict(), folder / "open_clip_model.safetensors")
            save_config_for_hf(model, folder / "open_clip_config.json", model_config=config)
        else:
            save_for_hf(model, tokenizer, config, str(folder), safe_serialization=True)
        return folder

    return make


def siglip_tokenizer() -> Any:
    """Pads with what ends a text, as SigLIP's does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([text.lower() for text in TEXTS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def teacher_of(saved: Callable[[str], Path]) -> Callable[..., Encoder]:
    """The teacher of a kind: ``teacher_of("coca")``."""

    @lru_cache
    def make(kind: str, **options: Any) -> Encoder:
        return create_teacher("open_clip", model=f"local-dir:{saved(kind)}", **options)

    return make


@pytest.fixture(scope="session")
def reference(saved: Callable[[str], Path]) -> Callable[..., Any]:
    """open_clip's own model, transform and tokenizer of a kind."""

    @lru_cache
    def make(kind: str, **options: Any) -> Any:
        name = f"local-dir:{saved(kind)}"
        model, transform = open_clip.create_model_from_pretrained(name, **options)
        return model.eval(), transform, open_clip.get_tokenizer(name)

    return make


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    names = ("astronaut", "chelsea", "coffee", "rocket")
    return [Image.fromarray(getattr(skimage.data, name)()) for name in names]


@pytest.fixture(scope="session")
def inputs_of(photos: list[Image.Image], teacher_of: Callable[..., Encoder]) -> Callable[[str], dict[str, Tensor]]:
    """Photos and texts as a kind's teacher wants them."""

    @lru_cache
    def make(kind: str) -> dict[str, Tensor]:
        preprocess = teacher_of(kind).preprocess
        pairs = zip(photos, TEXTS, strict=True)
        return preprocess.collate([preprocess({"image": image, "text": text}) for image, text in pairs])

    return make


@pytest.fixture(scope="session")
def kinds() -> list[str]:
    return list(CONFIGS)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS
