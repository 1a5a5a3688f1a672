"""What a timm network passes through on its way: pooled features, tokens, maps and hidden layers, in one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import AdapterError, first_line
from xmodal.taps import layer_of


@dataclass(frozen=True)
class Anatomy:
    """What a network's features look like, found by one small forward.

    ``final`` is ``map`` ([B, C, H, W]), ``tokens`` ([B, N, D], a grid after ``num_prefix`` others) or ``other``;
    ``stride`` is the side of a token's patch in pixels. ``one_pass`` says whether timm's ``forward_intermediates`` ends
    in the same final features as ``forward_features``. ``width`` is that of the pooled features; ``linear_head`` says
    whether the network's output is its classifier, one linear layer, over them.
    """

    final: str
    num_hidden: int
    num_prefix: int
    stride: tuple[int, int] | None
    one_pass: bool
    width: int
    linear_head: bool

    @property
    def taps(self) -> tuple[str, ...]:
        spatial = () if self.final == "other" else ("image.tokens", "image.map")
        return (*spatial, *(f"image.hidden.{layer}" for layer in range(self.num_hidden)))


@torch.no_grad()
def examine(network: Any, input_size: Sequence[int]) -> Anatomy:
    """Find the :class:`Anatomy` of a timm network; its weights, statistics and mode stay as they are."""
    was_training = network.training
    network.eval()
    parameter = next(network.parameters())
    images = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    hidden: list[Tensor] = []
    one_pass = False
    try:
        final = network.forward_features(images)
        if hasattr(network, "forward_intermediates"):
            last, hidden = network.forward_intermediates(images)
            one_pass = _same(last, final)
        pooled, classifier = network.forward_head(final, pre_logits=True), network.get_classifier()
        linear = isinstance(classifier, nn.Linear) and _same(classifier(pooled), network.forward_head(final))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = first_line(error)
        raise AdapterError(f"The network cannot see pictures of {tuple(input_size)}: {reason:.200}") from error
    finally:
        network.train(was_training)
    num_prefix = int(getattr(network, "num_prefix_tokens", 0))
    kind, stride = "other", None
    if isinstance(final, Tensor) and final.ndim == 4:
        kind = "map"
    elif isinstance(final, Tensor) and final.ndim == 3 and hidden and hidden[-1].ndim == 4:
        rows, columns = hidden[-1].shape[-2:]
        if rows * columns == final.shape[1] - num_prefix:
            kind, stride = "tokens", (input_size[-2] // rows, input_size[-1] // columns)
    return Anatomy(kind, len(hidden), num_prefix, stride, one_pass, pooled.shape[-1], linear)


def _same(one: Any, other: Any) -> bool:
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    return tensors and one.shape == other.shape and torch.allclose(one, other, atol=1e-5)


def trace(
    network: Any, anatomy: Anatomy, images: Tensor, taps: Sequence[str]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """One pass through a network's body: its final features, as ``forward_head`` takes them, and spatial ``taps``.

    The final features are None where only hidden layers were asked for: later layers are not run then.
    """
    layers = sorted({layer for stem, layer in map(layer_of, taps) if stem == "image.hidden" and layer is not None})
    only_hidden = bool(layers) and all(tap.startswith("image.hidden.") for tap in taps)
    features: dict[str, Tensor] = {}
    final: Tensor | None = None
    if layers:
        result = network.forward_intermediates(
            images, indices=layers, output_fmt="NCHW", intermediates_only=only_hidden, stop_early=only_hidden
        )
        last, hidden = (None, result) if only_hidden else result
        for layer, state in zip(layers, hidden, strict=True):
            features[f"image.hidden.{layer}"] = _to_tokens(state) if anatomy.final == "tokens" else state
        if only_hidden:
            return None, features
        final = last if anatomy.one_pass else None
    if final is None:
        final = network.forward_features(images)
    if anatomy.final == "map":
        channels_last = str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
        features["image.map"] = final.permute(0, 3, 1, 2) if channels_last else final
        features["image.tokens"] = _to_tokens(features["image.map"])
    elif anatomy.final == "tokens":
        features["image.tokens"] = tokens = final[:, anatomy.num_prefix :]
        if anatomy.stride is not None:
            grid = [side // stride for side, stride in zip(images.shape[-2:], anatomy.stride, strict=True)]
            features["image.map"] = tokens.transpose(1, 2).unflatten(2, grid)
    return final, features


def _to_tokens(channels_first: Tensor) -> Tensor:
    return channels_first.flatten(2).transpose(1, 2)
