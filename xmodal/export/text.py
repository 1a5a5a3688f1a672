"""A text student as a sentence-transformers folder: Transformer and Pooling, or StaticEmbedding, and Dense."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from xmodal.adapters.pooling import POOLERS, Dense, Normalize, Pooling
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.sentence_folder import read_sentence_folder
from xmodal.adapters.static_encoder import StaticEncoder
from xmodal.errors import AdapterError
from xmodal.export.layout import read_notes, write_json
from xmodal.export.tensors import write_tensors

Text = SentenceEncoder | StaticEncoder

_NOT_OURS = ("_name_or_path", "xmodal")  # a path of this machine, and the notes of an earlier save
_MODULE = "sentence_transformers.models."  # the names that every release since 2.0 reads


def write_text(encoder: Text, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write model, tokenizer, pooling and head; ``notes`` go into ``config.json`` under ``xmodal``."""
    if isinstance(encoder, StaticEncoder):
        modules = _write_static(encoder, folder, notes)
    else:
        modules = _write_transformer(encoder, folder, notes)
    prompt = encoder.preprocess.prompt
    prompts = {"default": prompt} if prompt else {}
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": "default" if prompts else None, "similarity_fn_name": "cosine"},
    )
    for number, module in enumerate(encoder.head, start=len(modules)):
        kind = type(module).__name__
        place = folder / f"{number}_{kind}"
        place.mkdir()
        if isinstance(module, Dense):
            write_json(place / "config.json", _dense_config(module))
            write_tensors(module, place / "model.safetensors")
        elif not isinstance(module, Normalize):
            raise AdapterError(f"A {kind} after the pooling has no place in a sentence-transformers folder.")
        modules.append((place.name, kind))
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": _MODULE + kind}
        for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)


def _write_static(encoder: StaticEncoder, folder: Path, notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    write_json(folder / "config.json", {"xmodal": dict(notes)})
    rows = encoder.model.folded().cpu().contiguous()
    save_file({"embedding.weight": rows}, folder / "model.safetensors", metadata={"format": "pt"})
    encoder.preprocess.tokenizer.save(str(folder / "tokenizer.json"))
    return [("", "StaticEmbedding")]


def _write_transformer(encoder: SentenceEncoder, folder: Path, notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    model: Any = encoder.model
    preprocess = encoder.preprocess
    own = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_OURS}
    config = {**own, "architectures": [type(model).__name__], "dtype": "float32", "xmodal": dict(notes)}
    write_json(folder / "config.json", config)
    write_tensors(model, folder / "model.safetensors")
    tokenizer = copy.deepcopy(preprocess.tokenizer)
    if tokenizer.is_fast:  # else the file would hold the padding and truncation of the last call
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {"max_seq_length": preprocess.max_length, "do_lower_case": False}
    if getattr(model, "pooler", ...) is None:
        settings["model_args"] = {"add_pooling_layer": False}  # else loaders make one, of random numbers
    write_json(folder / "sentence_bert_config.json", settings)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", _pooling_config(encoder.pooling, model.config.hidden_size))
    return [("", "Transformer"), ("1_Pooling", "Pooling")]


def read_text(folder: Path) -> Text:
    """The student in a sentence-transformers folder."""
    encoder = read_sentence_folder(folder, f"text ({folder.name})")
    encoder.spec = read_notes(folder).get("student", {})
    return encoder.lock() if encoder.spec.get("locked") and isinstance(encoder, SentenceEncoder) else encoder


def _pooling_config(pooling: Pooling, width: int) -> dict[str, Any]:
    names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    flags = {mode: f"pooling_mode_{names.get(mode, mode)}" for mode in POOLERS}
    return {
        "word_embedding_dimension": width,
        **{flag: mode in pooling.modes for mode, flag in flags.items()},
        "include_prompt": pooling.skip == 0,
    }


def _dense_config(dense: Dense) -> dict[str, Any]:
    activation = type(dense.activation)
    return {
        "in_features": dense.linear.in_features,
        "out_features": dense.linear.out_features,
        "bias": dense.linear.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }
