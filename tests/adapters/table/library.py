"""What each library makes of samples by its own call, with the files in a folder and nothing of xmodal's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import transformers
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tests.adapters.transformers_teacher.conftest import LENGTH
from tests.adapters.transformers_teacher.test_transformers_teacher_taps import library, own_call


@dataclass(frozen=True)
class Samples:
    """Real pictures and texts, as many of each."""

    pictures: Sequence[Image.Image]
    texts: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        pairs = zip(self.pictures, self.texts, strict=True)
        return [{"key": str(number), "image": i, "text": t} for number, (i, t) in enumerate(pairs)]


@dataclass(frozen=True)
class Own:
    """What a library's own transform and tokenizer make of samples, and its own embeddings of them, by our names."""

    inputs: Mapping[str, Tensor]
    embeddings: Mapping[str, Tensor]


@contextmanager
def without_xmodal() -> Iterator[None]:
    """Inside, nothing can import xmodal."""
    known = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "xmodal"}
    sys.modules.update(dict.fromkeys(known))  # type: ignore[arg-type]  # None makes an import fail
    try:
        with torch.no_grad():
            yield
    finally:
        sys.modules.update(known)


def transformed(network: Any, samples: Samples) -> Tensor:
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    return torch.stack([transform(picture) for picture in samples.pictures])


def pooled_by_timm(network: Any, samples: Samples) -> Own:
    """A timm network below its classifier, as a teacher is one."""
    images = transformed(network, samples)
    features = network.forward_head(network.forward_features(images), pre_logits=True)
    return Own({"image": images}, {"image.embedding": features})


def by_timm(folder: Path, samples: Samples) -> Own:
    """A timm network whole, as an image student is one."""
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = transformed(network, samples)
    return Own({"image": images}, {"image.embedding": network(images)})


def by_open_clip(folder: Path, samples: Samples) -> Own:
    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    inputs = {
        "image": torch.stack([transform(picture) for picture in samples.pictures]),
        "text_ids": open_clip.get_tokenizer(name)(list(samples.texts)),
    }
    model.eval()
    embeddings = {
        "image.embedding": model.encode_image(inputs["image"], normalize=False),
        "text.embedding": model.encode_text(inputs["text_ids"], normalize=False),
    }
    return Own(inputs, embeddings)


def by_sentence_transformers(folder: Path, samples: Samples) -> Own:
    model = SentenceTransformer(str(folder), device="cpu")
    texts = list(samples.texts)
    embeddings = {"text.embedding": model.encode(texts, convert_to_tensor=True)}
    tokens = model.preprocess(texts)
    if "offsets" in tokens:  # a table's tokens, one text behind the other
        return Own(padded(tokens["input_ids"], tokens["offsets"].tolist()), embeddings)
    return Own(by_our_names(tokens), embeddings)


def by_transformers(folder: Path, samples: Samples, kind: str) -> Own:
    """A model of ``kind`` among the small ones, or the real MiniLM, of kind "": its own tokenizer knows its limit."""
    inputs: dict[str, Tensor] = {}
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        inputs["image"] = processor(list(samples.pictures), return_tensors="pt")["pixel_values"]
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        padding = "max_length" if kind.startswith("siglip") else True
        limit = LENGTH if kind else None
        tokens = tokenizer(list(samples.texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        inputs |= by_our_names(tokens)
    model = library(folder, kind)
    there = [name for name, key in (("image", "image"), ("text", "text_ids")) if key in inputs]
    return Own(inputs, {f"{name}.embedding": own_call(model, inputs, name)[0] for name in there})


def by_our_names(tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {"input_ids": "text_ids", "attention_mask": "text_mask", "token_type_ids": "text_types"}
    return {ours: tokens[theirs] for theirs, ours in names.items() if theirs in tokens}


def padded(flat: Tensor, offsets: Sequence[int]) -> dict[str, Tensor]:
    rows = [flat[start:end] for start, end in zip(offsets, [*offsets[1:], len(flat)], strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"text_ids": ids, "text_mask": mask}
