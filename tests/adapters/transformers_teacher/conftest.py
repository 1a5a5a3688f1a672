"""A small model of every architecture, built and saved by transformers with its own tokenizer and image processor."""

from __future__ import annotations

import io
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

LAYERS, HEADS = 2, 3
TEXT = "a the sad happy cat dog red big car in on grass night plays sleeps of and under bridge river , ."
WORDS = TEXT.split()
LENGTH = 12
_BODY = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
_IMAGE = {**_BODY, "hidden_size": 24, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
_SQUARE = {"height": 32, "width": 32}


def byte_level(specials: list[str], suffix: str = "") -> tuple[dict[str, int], list[Any]]:
    """Vocabulary and merges of a byte-level BPE: all bytes, and "cat" and "dog" merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", f"t{suffix}"), ("d", "o"), ("do", f"g{suffix}")]
    pieces = [*alphabet, *([letter + suffix for letter in alphabet] if suffix else []), *map("".join, merges)]
    return {piece: number for number, piece in enumerate([*specials, *pieces])}, merges


def pieces(specials: list[str]) -> list[tuple[str, float]]:
    """A unigram vocabulary: words and letters, with log probabilities."""
    whole = [f"▁{word}" for word in WORDS]
    letters = ["▁", *string.ascii_lowercase]
    return [(piece, 0.0) for piece in specials] + [(p, -2.0) for p in whole] + [(p, -9.0) for p in letters]


def bert_tokenizer(kind: Any = None) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    return (kind or transformers.BertTokenizer)(vocab={word: number for number, word in enumerate(words)})


def mpnet_tokenizer() -> Any:
    words = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS]
    return transformers.MPNetTokenizer(vocab={word: number for number, word in enumerate(words)})


def roberta_tokenizer() -> Any:
    vocab, merges = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def siglip_tokenizer(folder: Path) -> Any:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 9),
        model_writer=model,
        vocab_size=34,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    file = folder / "spiece.model"
    file.write_bytes(model.getvalue())
    # as the published checkpoints say: the model is not told what is padding
    return transformers.SiglipTokenizer(vocab_file=str(file), model_max_length=LENGTH, model_input_names=["input_ids"])


def siglip2_tokenizer() -> Any:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = [
        *specials,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *string.ascii_lowercase,
        ",",
        ".",
        "ca",
        "cat",
    ]
    return transformers.Siglip2Tokenizer(
        vocab={piece: number for number, piece in enumerate(vocab)},
        merges=[("c", "a"), ("ca", "t")],
        padding_side="right",
        model_input_names=["input_ids"],
    )


def clip(folder: Path) -> Any:
    vocab, merges = byte_level(["<|startoftext|>", "<|endoftext|>"], suffix="</w>")
    transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE).save_pretrained(folder)
    text = text_config(len(vocab), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    config = transformers.CLIPConfig(text_config=text, vision_config=_IMAGE, projection_dim=10)
    return transformers.CLIPModel(config)


def clip_image(folder: Path) -> Any:
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE).save_pretrained(folder)
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**_IMAGE, projection_dim=10))


def clip_text(folder: Path) -> Any:
    vocab, merges = byte_level(["<|startoftext|>", "<|endoftext|>"], suffix="</w>")
    transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH).save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        **text_config(len(vocab), bos_token_id=0, eos_token_id=1, pad_token_id=1), projection_dim=10
    )
    return transformers.CLIPTextModelWithProjection(config)


def siglip(folder: Path, tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or siglip_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    transformers.SiglipImageProcessor(size=_SQUARE).save_pretrained(folder)
    text = text_config(len(tokenizer), width=24, pad_token_id=0, eos_token_id=1)
    config = transformers.SiglipConfig(text_config=text | {"projection_size": 24}, vision_config=_IMAGE)
    return transformers.SiglipModel(config)


def vit(folder: Path) -> Any:
    transformers.ViTImageProcessor(size=_SQUARE).save_pretrained(folder)
    return transformers.ViTModel(transformers.ViTConfig(**_IMAGE))


def vit_without_pooler(folder: Path) -> Any:
    transformers.ViTImageProcessor(size=_SQUARE).save_pretrained(folder)
    return transformers.ViTModel(transformers.ViTConfig(**_IMAGE), add_pooling_layer=False)


def vit_classifier(folder: Path) -> Any:
    transformers.ViTImageProcessor(size=_SQUARE).save_pretrained(folder)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**_IMAGE, num_labels=5))


def dinov2(folder: Path, kind: str = "Dinov2", head: str = "Model", **options: Any) -> Any:
    size, crop = {"shortest_edge": 36}, {"height": 28, "width": 28}
    transformers.BitImageProcessor(size=size, crop_size=crop, do_convert_rgb=True).save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(**(_IMAGE | {"patch_size": 7, "image_size": 35}), **options)
    return getattr(transformers, f"{kind}{head}")(config)


def dinov3(folder: Path) -> Any:
    transformers.DINOv3ViTImageProcessor(size=_SQUARE).save_pretrained(folder)
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**_IMAGE, num_register_tokens=4))


def text_config(vocabulary: int, width: int = 18, **special: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": LENGTH}
    return {**_BODY, **sizes, "vocab_size": vocabulary, **special}


def bert_like(folder: Path, kind: str, tokenizer: Any, **options: Any) -> Any:
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(**text_config(len(tokenizer)) | options)
    return getattr(transformers, f"{kind}Model")(config)


def distilbert(folder: Path) -> Any:
    tokenizer = bert_tokenizer(transformers.DistilBertTokenizer)
    tokenizer.save_pretrained(folder)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=18, hidden_dim=36, n_layers=LAYERS, n_heads=HEADS, max_position_embeddings=LENGTH
    )
    return transformers.DistilBertModel(config)


def deberta(folder: Path, **options: Any) -> Any:
    vocab, merges = byte_level(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    return bert_like(folder, "Deberta", transformers.DebertaTokenizer(vocab=vocab, merges=merges), **options)


def deberta_v2(folder: Path, **options: Any) -> Any:
    tokenizer = transformers.DebertaV2Tokenizer(vocab=[*pieces(["[PAD]", "[CLS]", "[SEP]", "[UNK]"]), ("[MASK]", 0.0)])
    options = {"position_buckets": 4, "position_biased_input": False, **options}
    return bert_like(folder, "DebertaV2", tokenizer, **options)


_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_PADS = {"pad_token_id": 1, "max_position_embeddings": LENGTH + 2}

BUILDERS: dict[str, Callable[[Path], Any]] = {
    "clip": clip,
    "clip-image": clip_image,
    "clip-text": clip_text,
    "siglip": siglip,
    "siglip2": lambda folder: siglip(folder, siglip2_tokenizer()),
    "vit": vit,
    "vit-without-pooler": vit_without_pooler,
    "vit-classifier": vit_classifier,
    "dinov2": dinov2,
    "dinov2-classifier": lambda folder: dinov2(folder, head="ForImageClassification", num_labels=5),
    "dinov2-registers": lambda folder: dinov2(folder, "Dinov2WithRegisters", num_register_tokens=4),
    "dinov3": dinov3,
    "bert": lambda folder: bert_like(folder, "Bert", bert_tokenizer()),
    "roberta": lambda folder: bert_like(folder, "Roberta", roberta_tokenizer(), **_PADS),
    "xlm-roberta": lambda folder: bert_like(
        folder,
        "XLMRoberta",
        transformers.XLMRobertaTokenizer(vocab=[*pieces(["<s>", "<pad>", "</s>", "<unk>"]), ("<mask>", 0.0)]),
        **_PADS,
    ),
    "distilbert": distilbert,
    "mpnet": lambda folder: bert_like(folder, "MPNet", mpnet_tokenizer(), **_PADS),
    "electra": lambda folder: bert_like(folder, "Electra", bert_tokenizer(), embedding_size=10),
    "deberta": lambda folder: deberta(folder, **_DISENTANGLED),
    "deberta-plain": lambda folder: deberta(folder, pos_att_type=[]),
    # as DeBERTa-v3: relative positions go through the same query and key modules
    "deberta-v2": lambda folder: deberta_v2(folder, **_DISENTANGLED, share_att_key=True, norm_rel_ebd="layer_norm"),
    "deberta-v2-plain": lambda folder: deberta_v2(folder, pos_att_type=[]),
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``model_folder("clip")``: a folder with random weights, big enough for attention to be uneven."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            transformers.utils.logging.disable_progress_bar()
            folder = made[name] = tmp_path_factory.mktemp(name)
            torch.manual_seed(0)
            model = BUILDERS[name](folder)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.15 * torch.randn_like(parameter)
            model.save_pretrained(folder)
        return made[name]

    return make
