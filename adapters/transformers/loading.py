"""Config, model, tokenizer and image processor out of a transformers folder, or an error that says what is amiss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from xmodal.adapters.sentence_folder import offset_positions, quiet
from xmodal.adapters.transformers.families import Family
from xmodal.errors import AdapterError, first_line, hint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION = ("sdpa", "eager", "flash_attention_2")

_CANNOT = (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError, SafetensorError)
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_PAIR = ("vocab.json", "merges.txt")
_POOLERS = ("pooler.",)


def model_type(folder: Path) -> str | None:
    """``model_type`` in the folder's ``config.json``."""
    file = folder / "config.json"
    if not file.is_file():
        raise AdapterError(f"{folder} holds no config.json: it is not the folder of a transformers model.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} is not JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    return str(kind) if kind is not None else None


def load_model(folder: Path, family: Family, dtype: str, attention: str | None) -> Any:
    """The model in ``folder``, every weight of it read; without its pooler where the checkpoint holds none.

    Code that comes with a checkpoint is not run.
    Raises :class:`AdapterError` for broken or missing weights, and for attention that this machine cannot run.
    """
    import transformers

    _check("dtype", dtype, DTYPES)
    if attention is not None:
        _check("attention", attention, ATTENTION)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        head = next((name for name in config.architectures or () if name in family.heads), None)
        kind = getattr(transformers, head) if head else transformers.AutoModel
        options = {"attn_implementation": attention} if attention else {}
        with quiet(transformers):
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[dtype],
                output_loading_info=True,
                trust_remote_code=False,
                **options,
            )
    except _CANNOT as error:
        raise AdapterError(f"{folder} cannot be loaded as a transformers model: {first_line(error)}") from error
    _drop_untrained_pooler(model, report["missing_keys"])
    _check_whole(folder, report)
    return model


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``.

    Raises :class:`AdapterError` where its files are missing: transformers would make an empty one, without a word.
    """
    import transformers

    there = [name for name in _VOCABULARIES if (folder / name).is_file()]
    if not there and not all((folder / name).is_file() for name in _PAIR):
        raise AdapterError(
            f"{folder} holds no tokenizer: none of {', '.join(_VOCABULARIES)}, nor {' with '.join(_PAIR)}, is there. "
            "Fetch them from where the weights come from, or write them: tokenizer.save_pretrained(FOLDER)."
        )
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise AdapterError(
            f"The tokenizer in {folder} needs a package that is not installed: {first_line(error)} "
            "pip install sentencepiece protobuf"
        ) from error
    except Exception as error:  # tokenizers raises bare Exceptions for files that it cannot read
        raise AdapterError(f"{folder} holds no tokenizer that transformers can load: {first_line(error)}") from error


def read_image_processor(folder: Path, image_size: int | None, patch_size: int) -> Any:
    """The image processor in ``folder``, for squares of ``image_size`` pixels where that is given.

    Raises :class:`AdapterError` where its file is missing, and for a size that ``patch_size`` does not divide.
    """
    import transformers

    if image_size is not None and (image_size < patch_size or image_size % patch_size):
        lower = max(1, image_size // patch_size) * patch_size
        raise AdapterError(
            f"image_size {image_size} is not a multiple of the network's patch size {patch_size}. "
            f"Nearest: {lower}, {lower + patch_size}"
        )
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise AdapterError(
            f"{folder} holds no preprocessor_config.json, which says how pictures are resized and normalised. Fetch it "
            "from where the weights come from, or write one: AutoImageProcessor's save_pretrained(FOLDER)."
        )
    try:
        with quiet(transformers):
            auto: Any = transformers.AutoImageProcessor
            processor = auto.from_pretrained(folder, trust_remote_code=False)
            if image_size is None:
                return processor
            square = {"height": image_size, "width": image_size}
            crops = processor.do_center_crop or "shortest_edge" in dict(processor.size)
            own = {"crop_size": square, "do_center_crop": True} if crops else {}
            size = {"shortest_edge": image_size} if crops else square
            return auto.from_pretrained(folder, trust_remote_code=False, size=size, **own)
    except _CANNOT as error:
        raise AdapterError(
            f"{folder} holds no image processor that transformers can load: {first_line(error)}"
        ) from error


def text_limit(tokenizer: Any, model: Any) -> int:
    """Tokens that a text is cut at: what the tokenizer says, or the position embeddings can count, if that is less."""
    count = offset_positions(model) or int(getattr(model.config, "max_position_embeddings", 0) or 0)
    return int(min(tokenizer.model_max_length, count) if count > 0 else tokenizer.model_max_length)


def _drop_untrained_pooler(model: Any, missing: set[str]) -> None:
    """transformers fills a pooler that the checkpoint lacks with random numbers, and so did the checkpoint's maker not
    train one: without it the class token stands for the whole.
    """
    if any(name.startswith(_POOLERS) for name in missing):
        model.pooler = None


def _check_whole(folder: Path, report: dict[str, Any]) -> None:
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(_POOLERS))
    wrong = sorted(str(entry) for entry in report["mismatched_keys"])
    if missing or wrong:
        raise AdapterError(
            f"The weights in {folder} are not whole: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:3])})."
        )


def _check(option: str, value: str, known: Sequence[str] | dict[str, Any]) -> None:
    if value not in known:
        raise AdapterError(
            f"teacher 'transformers': {option} {value!r} is none of {', '.join(known)}. {hint(value, known)}"
        )
