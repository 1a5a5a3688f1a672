"""A stack of open_clip's transformer blocks: hidden states, and what its attention layers make on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from xmodal.adapters.encoder import Features
from xmodal.taps import layer_of

INTERNALS = ("attention", "scores", "query", "key", "value")


class Tower(Protocol):
    """One of a model's two towers: what it has, and what it makes of pictures ``[B, 3, H, W]`` or ids ``[B, L]``."""

    taps: tuple[str, ...]

    def __call__(self, inputs: Tensor, taps: Sequence[str], /) -> Features:
        """At least the ``taps``, which are this tower's."""


def block_taps(modality: str, transformer: Any) -> tuple[str, ...]:
    """``image.hidden.0`` … for a stack; of its attention only where all blocks have torch's own."""
    layers = len(transformer.resblocks)
    hidden = tuple(f"{modality}.hidden.{number}" for number in range(layers + 1))
    if not all(_is_plain(block.attn) for block in transformer.resblocks):
        return hidden
    return (*hidden, *(f"{modality}.{what}.{number}" for what in INTERNALS for number in range(layers)))


def run_blocks(
    transformer: Any, embedded: Tensor, mask: Tensor | None, taps: Sequence[str], *, to_end: bool
) -> tuple[Tensor, Features]:
    """The last states ``[B, L, W]`` and the layered ones among ``taps``.

    Hidden 0 is ``embedded``, n the states after block n. Unless ``to_end``, no block runs that no tap needs.
    """
    layered = [(tap, stem.rsplit(".", 1)[-1], n) for tap in taps for stem, n in [layer_of(tap)] if n is not None]
    depths = [number + (what != "hidden") for _, what, number in layered]
    depth = len(transformer.resblocks) if to_end else max(depths, default=0)
    features: Features = {}
    if not depth:
        return embedded, {tap: embedded for tap, _, _ in layered}
    with recorded(transformer.resblocks, [entry for entry in layered if entry[1] != "hidden"], features):
        numbers = {number for _, what, number in layered if what == "hidden" and number} | {depth}
        last, states = transformer.forward_intermediates(
            embedded, attn_mask=mask, indices=[number - 1 for number in sorted(numbers)], stop_early=True
        )
    hidden = {0: embedded, **dict(zip(sorted(numbers), states, strict=True))}
    return last, {**features, **{tap: hidden[number] for tap, what, number in layered if what == "hidden"}}


@contextmanager
def recorded(blocks: Any, layered: Sequence[tuple[str, str, int]], into: Features) -> Iterator[None]:
    """Inside, what ``layered`` names of the blocks' attention is kept: (tap, what, layer), made from a layer's input.

    The layer itself runs as it always does, with kernels that never hold the probabilities.
    """
    with ExitStack() as stack:
        for number in {number for _, _, number in layered}:
            wanted = {what: tap for tap, what, layer in layered if layer == number}

            def keep(module: Any, given: tuple[Any, ...], named: dict[str, Any], wanted: Any = wanted) -> None:
                made = _internals(module, given[0], named.get("attn_mask"), "attention" in wanted or "scores" in wanted)
                into.update({tap: made[what] for what, tap in wanted.items()})

            stack.callback(blocks[number].attn.register_forward_pre_hook(keep, with_kwargs=True).remove)
        yield


def _is_plain(attention: Any) -> bool:
    return isinstance(attention, nn.MultiheadAttention) and attention.batch_first and attention.bias_k is None


def _internals(attention: Any, states: Tensor, mask: Tensor | None, with_scores: bool) -> dict[str, Tensor]:
    parts = nn.functional.linear(states, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    made = dict(zip(("query", "key", "value"), parts, strict=True))
    if with_scores:
        batch, length, _ = states.shape
        heads = (batch, length, attention.num_heads, -1)
        query, key = (made[what].float().reshape(heads).transpose(1, 2) for what in ("query", "key"))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores + (mask if mask.ndim == 2 else mask.reshape(batch, attention.num_heads, length, length))
        made |= {"scores": scores, "attention": scores.softmax(-1)}
    return made
