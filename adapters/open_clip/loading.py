"""open_clip models by name, tag, weight file, hub repository or folder: what was asked for, or why it cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.adapters.open_clip.sources import (
    FOLDER,
    HUB,
    Weights,
    architecture,
    chain,
    find_weights,
    get_open_clip,
    quiet,
)
from xmodal.adapters.weights import read_weights
from xmodal.errors import AdapterError, first_line, hint

PRECISIONS = ("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16")
_REASONS = 5


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, its ``config`` (``embed_dim``, ``vision_cfg``, ``text_cfg``, …) and its tokenizer.

    ``weights`` names the content of the weights: a hub commit or a file's hash; None where they are random.
    """

    model: Any
    config: dict[str, Any]
    tokenizer: Any
    weights: str | None


def load_open_clip(
    model: str,
    *,
    pretrained: bool | str | Path = True,
    precision: str = "fp32",
    image_size: int | None = None,
    context_length: int | None = None,
) -> Loaded:
    """The model that open_clip's own ``create_model`` makes, and the tokenizer of its ``get_tokenizer``.

    Raises :class:`~xmodal.errors.AdapterError` that says what was looked for where, and what to do.
    """
    open_clip = get_open_clip()
    if precision not in PRECISIONS:
        raise AdapterError(f"{precision!r} is not a precision of open_clip's. {hint(precision, PRECISIONS)}")
    config = architecture(model)
    model = model if model.startswith((HUB, FOLDER)) else model.replace("/", "-")
    weights = find_weights(model, config, pretrained)
    given = None if weights is None or weights.of_source else weights.given
    try:
        with quiet():
            network = open_clip.create_model(
                model,
                pretrained=given,
                load_weights=weights is not None,
                precision=precision,
                force_image_size=image_size,
                force_context_length=context_length,
                pretrained_text=False,  # a text tower's own weights would be overwritten, or are not wanted
                require_pretrained=weights is not None,
                weights_only=True,
            )
    except Exception as error:  # open_clip, timm, transformers and torch each have their own
        raise AdapterError(_why_not(model, config, weights, image_size, error)) from error
    if weights is None:
        _draw_decoder_projection(network)
    tokenizer = _tokenizer(model, config, context_length)
    return Loaded(network.eval(), config, tokenizer, weights.identity() if weights else None)


def _draw_decoder_projection(network: Any) -> None:
    """open_clip leaves it, in CoCa's caption decoder, as whatever lay in memory: drawn as its ``init_parameters`` says,
    which open_clip does not call.
    """
    projection = getattr(getattr(network, "text_decoder", None), "text_projection", None)
    if projection is not None:
        import torch

        torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)


def _tokenizer(model: str, config: dict[str, Any], context_length: int | None) -> Any:
    text = config["text_cfg"]
    # a model's repository may ask for its own code to be run
    safely = {"trust_remote_code": False} if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code") else {}
    try:
        with quiet():
            return get_open_clip().get_tokenizer(model, context_length=context_length, **safely)
    except Exception as error:
        name = str(text.get("hf_tokenizer_name") or model)
        where = f"the folder {model.removeprefix(FOLDER)}" if model.startswith(FOLDER) else None
        if where is None:
            from xmodal.adapters.hub import cannot_fetch

            raise AdapterError(
                f"The tokenizer of {model!r} cannot be loaded. {cannot_fetch(name, None, error)}"
            ) from error
        raise AdapterError(
            f"{model!r} has a tokenizer of transformers' (text_cfg.hf_tokenizer_name is {name!r}), whose files are to "
            f"lie in {where}; they cannot be read: {first_line(error)} Save it there: "
            "tokenizer.save_pretrained(FOLDER)."
        ) from error


def _why_not(
    model: str, config: dict[str, Any], weights: Weights | None, image_size: int | None, error: Exception
) -> str:
    said = str(error)
    if weights is not None and ("state_dict" in said or "state dict" in said):
        reasons = [line.strip() for line in said.splitlines()[1:] if line.strip()]
        more = f" … {len(reasons)} in all" if len(reasons) > _REASONS else ""
        size = f" Was it trained at {image_size} pixels?" if image_size else ""
        return f"The weights in {weights.file} are not of {model}: {' '.join(reasons[:_REASONS]):.600}{more}{size}"
    text_tower = config["text_cfg"].get("hf_model_name")
    if text_tower and any(isinstance(part, OSError) for part in chain(error)):
        from xmodal.adapters.hub import cannot_fetch

        return f"The text tower of {model!r} is transformers'. {cannot_fetch(str(text_tower), None, error)}"
    if weights is not None and weights.file.suffix not in (".npz", ".npy"):
        read_weights(weights.file)  # raises for a file that is broken or holds no weights
        return f"The weights in {weights.file} cannot be loaded into {model}: {first_line(error)}"
    return f"open_clip cannot make {model!r}: {first_line(error)}"
