"""What follows the transformer in a sentence encoder: pooling, dense layers, normalisation, as its folder says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import AdapterError

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(nn.Module):
    """Token states → one vector a text; several ``modes`` are put side by side.

    ``skip`` tokens at the head of every text (its prompt) are left out.
    """

    def __init__(self, modes: Sequence[str] = ("mean",), skip: int = 0) -> None:
        super().__init__()
        unknown = [mode for mode in modes if mode not in POOLERS]
        if unknown:
            raise AdapterError(f"Pooling by {', '.join(unknown)} is not known. Known: {', '.join(POOLERS)}.")
        self.modes, self.skip = tuple(modes), skip

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prompt_length: int = 0) -> Pooling:
        """From a sentence-transformers ``1_Pooling/config.json``, of old or new style."""
        modes = config.get("pooling_mode")
        if modes is None:
            modes = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
        return cls(
            [modes] if isinstance(modes, str) else modes, 0 if config.get("include_prompt", True) else prompt_length
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``tokens`` [B, L, D] and ``mask`` [B, L] → [B, D · number of modes]."""
        first = mask.int().argmax(dim=1, keepdim=True)
        position = torch.arange(mask.shape[1], device=mask.device) - first
        if self.skip:
            mask = mask * (position >= self.skip)
        return torch.cat([POOLERS[mode](tokens, mask, position) for mode in self.modes], dim=-1)

    def extra_repr(self) -> str:
        return ", ".join(self.modes)


def _cls(tokens: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    return _take(tokens, mask.int().argmax(dim=1))


def _last(tokens: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    return _take(tokens, mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1))


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens.gather(1, index[:, None, None].expand(-1, 1, tokens.shape[-1])).squeeze(1)


def _max(tokens: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    return tokens.masked_fill(mask[..., None] == 0, float("-inf")).amax(dim=1)


def _weighted(tokens: Tensor, weights: Tensor, power: float) -> Tensor:
    total = weights.sum(dim=1, keepdim=True).clamp(min=1e-9)
    precise = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return (precise * weights[..., None]).sum(dim=1).div(total**power).to(tokens.dtype)


POOLERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": lambda tokens, mask, position: _weighted(tokens, mask.float(), 1.0),
    "mean_sqrt_len_tokens": lambda tokens, mask, position: _weighted(tokens, mask.float(), 0.5),
    "weightedmean": lambda tokens, mask, position: _weighted(tokens, mask.float() * (position + 1), 1.0),
    "lasttoken": _last,
}


class Dense(nn.Module):
    """A linear layer and its activation, under the names of a sentence-transformers ``Dense`` folder."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "Identity") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation = getattr(nn, activation)()

    @classmethod
    def from_folder(cls, folder: Path) -> Dense:
        from xmodal.adapters.weights import load_into, read_weights

        config = json.loads((folder / "config.json").read_text())
        function = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        name = function.rsplit(".", 1)[-1]
        if not function.startswith("torch.nn.") or not hasattr(nn, name) or config.get("use_residual"):
            raise AdapterError(
                f"{folder}: a Dense module with {function} and use_residual={config.get('use_residual')} is not read."
            )
        dense = cls(config["in_features"], config["out_features"], config.get("bias", True), name)
        load_into(dense, read_weights(folder), str(folder))
        return dense

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))  # type: ignore[no-any-return]


class Normalize(nn.Module):
    """Rows of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, dim=-1)
