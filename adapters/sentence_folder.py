"""Reads a sentence-transformers folder, or a plain transformers one, into a :class:`SentenceEncoder`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from xmodal.adapters.pooling import Dense, Normalize, Pooling
from xmodal.adapters.preprocess import TextPreprocess
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.static_encoder import StaticEncoder, read_static_folder
from xmodal.errors import AdapterError, first_line

_UNUSED = ("pooler.", "embeddings.position_ids", "lm_head.")
"""Weights that an encoder's features do not depend on: they may be missing from a file."""


def read_sentence_folder(
    folder: Path, name: str, *, prompt: str | None = None, weights_identity: str | None = None
) -> SentenceEncoder | StaticEncoder:
    """The encoder in ``folder``, with pooling and head as ``modules.json`` says; mean pooling where there is none.

    ``prompt`` None takes the folder's own default prompt, where it has one.
    Raises :class:`~xmodal.errors.AdapterError` for a module we cannot build and for weights that are missing or broken.
    """
    modules = _read_json(
        folder / "modules.json", [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": None}]
    )
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    if kinds[:1] == ["StaticEmbedding"]:
        head = _read_head(folder, modules[1:], name)
        return read_static_folder(folder / (modules[0]["path"] or ""), name, head, _prompt(folder, prompt)).eval()
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise AdapterError(
            f"{name} is a chain of {', '.join(kinds)}; we read Transformer, Pooling, then Dense and Normalize, and "
            "StaticEmbedding."
        )
    own = folder / (modules[0]["path"] or "")
    settings = _sentence_settings(own)
    model = load_transformer(own, settings.get("model_args") or settings.get("model_kwargs") or {})
    preprocess = TextPreprocess(*load_tokenizer(own, settings, model.config), prompt=_prompt(folder, prompt))
    preprocess.max_length = min(preprocess.max_length, offset_positions(model) or preprocess.max_length)
    where = modules[1]["path"]
    pooling = Pooling.from_config(
        _read_json(folder / where / "config.json", {}) if where else {}, preprocess.prompt_length()
    )
    head = _read_head(folder, modules[2:], name)
    return SentenceEncoder(name, model, preprocess, pooling, head, weights_identity).eval()


def _read_head(folder: Path, modules: Sequence[Mapping[str, Any]], name: str) -> list[nn.Module]:
    head: list[nn.Module] = []
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Dense":
            head.append(Dense.from_folder(folder / module["path"]))
        elif kind == "Normalize":
            head.append(Normalize())
        else:
            raise AdapterError(f"{name} has a module {kind} after its pooling; we read Dense and Normalize there.")
    return head


def load_transformer(folder: Path, options: dict[str, Any]) -> Any:
    """A transformers model without a task head, float32, every weight of it read from ``folder``."""
    import transformers

    options = {key: value for key, value in options.items() if key != "trust_remote_code"}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = transformers.AutoModelForTextEncoding if config.is_encoder_decoder else transformers.AutoModel
        if not hasattr(config, "hidden_size"):
            raise AdapterError(
                f"{folder} holds a {config.model_type!r} model, which is no text encoder by itself. "
                "The teacher 'transformers' reads models of two towers."
            )
        with quiet(transformers):
            model, report = kind.from_pretrained(folder, config=config, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise AdapterError(f"{folder} cannot be loaded as a transformers model: {reason:.300}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(_UNUSED))
    wrong = sorted(str(entry) for entry in report["mismatched_keys"])
    if missing or wrong:
        # transformers fills such weights with random numbers and goes on
        raise AdapterError(
            f"The weights in {folder} are not whole: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:3])})."
        )
    return model.float()


def load_tokenizer(folder: Path, settings: dict[str, Any], config: Any | None = None) -> tuple[Any, int]:
    """The tokenizer in ``folder`` and the number of tokens that a text is cut at."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise AdapterError(f"{folder} holds no tokenizer that transformers can load: {reason:.300}") from error
    length = settings.get("max_seq_length")
    if length is None:
        positions = getattr(config, "max_position_embeddings", -1)
        length = (
            min(tokenizer.model_max_length, positions) if positions and positions > 0 else tokenizer.model_max_length
        )
    if settings.get("do_lower_case"):
        _lower_case(tokenizer)
    return tokenizer, int(length)


def offset_positions(model: Any) -> int | None:
    """Tokens that a model can number which begins after the padding's own number, as RoBERTa does; else None.

    Its config counts two more: a text cut at those would reach behind the position embeddings.
    """
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(positions, nn.Embedding) or positions.padding_idx is None:
        return None
    return positions.num_embeddings - positions.padding_idx - 1


def _lower_case(tokenizer: Any) -> None:
    from tokenizers import normalizers

    own = tokenizer.backend_tokenizer.normalizer
    steps = [normalizers.Lowercase(), *([own] if own is not None else [])]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)


def _sentence_settings(folder: Path) -> dict[str, Any]:
    names = sorted(folder.glob("sentence_*_config.json"))
    return dict(_read_json(names[0], {})) if names else {}


def _prompt(folder: Path, prompt: str | None) -> str:
    if prompt is not None:
        return prompt
    settings = _read_json(folder / "config_sentence_transformers.json", {})
    return str((settings.get("prompts") or {}).get(settings.get("default_prompt_name"), ""))


def _read_json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON: {error}") from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bar and no printed table of missing weights: we raise for those that matter."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
