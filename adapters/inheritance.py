"""TinyCLIP's manual inheritance: a small CLIP whose layers, heads and channels are some of a bigger one's.

Wu et al. 2023, arXiv:2309.12314. One set of channels is taken of a tower's whole residual stream, one of the space of
embeddings; heads and MLP neurons are each layer's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.adapters.layer_selection import check_layers, evenly_spaced
from xmodal.errors import AdapterError

State = Mapping[str, Tensor]

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_AXES: dict[str, tuple[str, ...]] = {
    "conv1.weight": ("channels", "", "", ""),
    "class_embedding": ("channels",),
    "token_embedding.weight": ("", "channels"),
    "positional_embedding": ("", "channels"),
    "proj": ("channels", "embedding"),
    "text_projection": ("channels", "embedding"),
    "text_projection.weight": ("embedding", "channels"),
    "text_projection.bias": ("embedding",),
    **{f"{norm}.{part}": ("channels",) for norm in ("ln_pre", "ln_post", "ln_final") for part in ("weight", "bias")},
}
"""What each axis of a tower's tensor counts; "" is taken whole."""
_BLOCK_AXES: dict[str, tuple[str, ...]] = {
    **{f"{norm}.{part}": ("channels",) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")},
    "ls_1.gamma": ("channels",),
    "ls_2.gamma": ("channels",),
    "attn.in_proj_weight": ("qkv", "channels"),
    "attn.in_proj_bias": ("qkv",),
    "attn.out_proj.weight": ("channels", "heads"),
    "attn.out_proj.bias": ("channels",),
    "mlp.c_fc.weight": ("neurons", "channels"),
    "mlp.c_fc.bias": ("neurons",),
    "mlp.c_proj.weight": ("channels", "neurons"),
    "mlp.c_proj.bias": ("channels",),
}


@dataclass(frozen=True)
class Rule:
    """What is taken. ``layers``: ``even`` (TinyCLIP's: every n-th from the first), ``spread`` (first and last
    included), ``first``, or their numbers. ``channels`` (MLP neurons and embedding dimensions as well) and ``heads``:
    ``first`` or ``important``, those of the largest ``norm`` (``l1`` or ``l2``) of their weights.
    """

    layers: str | Sequence[int] = "even"
    channels: str = "first"
    heads: str = "first"
    norm: str = "l2"


@dataclass(frozen=True)
class Shape:
    """A tower's sizes."""

    layers: int
    width: int
    heads: int
    neurons: int
    embedding: int


def inherit_tower(state: State, big: Shape, small: Shape, rule: Rule, embedding: Tensor) -> dict[str, Tensor]:
    """The tensors of a tower of shape ``small``, out of those of a ``big`` one's ``state``; positions are all kept.

    ``embedding`` are the dimensions ``[small.embedding]`` of the embedding that are taken.
    Raises :class:`~xmodal.errors.AdapterError` for a size that is more than the big tower's, a head width that is
    another, and tensors whose axes are not known.
    """
    _check_shapes(big, small)
    layers = choose_layers(rule.layers, big.layers, small.layers)
    blocks, rest = _split(state, layers)
    tensors = [(tensor, _AXES[name]) for name, tensor in rest.items()]
    inner = [(tensor, _BLOCK_AXES[name]) for block in blocks for name, tensor in block.items()]
    taken = {
        "channels": choose(small.width, _slices([*tensors, *inner], "channels"), rule.channels, rule.norm),
        "embedding": embedding,
    }
    made = {name: _take(tensor, _AXES[name], taken) for name, tensor in rest.items()}
    for number, block in enumerate(blocks):
        of_block = [(tensor, _BLOCK_AXES[name]) for name, tensor in block.items()]
        heads = choose(small.heads, _head_slices(of_block, big.heads), rule.heads, rule.norm)
        width = big.width // big.heads
        rows = (heads[:, None] * width + torch.arange(width)).flatten()
        own = {
            **taken,
            "neurons": choose(small.neurons, _slices(of_block, "neurons"), rule.channels, rule.norm),
            "heads": rows,
            "qkv": torch.cat([rows + part * big.width for part in range(3)]),
        }
        for name, tensor in block.items():
            made[f"transformer.resblocks.{number}.{name}"] = _take(tensor, _BLOCK_AXES[name], own)
    return made


def choose_embedding(projections: Sequence[tuple[str, Tensor]], size: int, rule: Rule) -> Tensor:
    """The ``size`` dimensions of the embedding that are taken, of both towers alike, from their projections by name."""
    slices = _slices([(tensor, _AXES[name]) for name, tensor in projections], "embedding")
    return choose(size, slices, rule.channels, rule.norm)


def choose_layers(layers: str | Sequence[int], total: int, count: int) -> list[int]:
    """The numbers of ``count`` of ``total`` layers.

    >>> choose_layers("even", 12, 6), choose_layers("spread", 12, 6), choose_layers("first", 12, 3)
    ([0, 2, 4, 6, 8, 10], [0, 2, 4, 7, 9, 11], [0, 1, 2])
    """
    if isinstance(layers, str):
        if not 0 < count <= total:
            raise AdapterError(f"{count} layers cannot be inherited from {total}.")
        if layers == "spread":
            return evenly_spaced(total, count)
        step = total // count if layers == "even" else 1
        return list(range(0, count * step, step))
    found = check_layers(layers, total, "the model to inherit from")
    if len(found) != count:
        raise AdapterError(f"inherit.layers names {len(found)} layers; the student's tower has {count}.")
    return found


def choose(count: int, slices: Sequence[Tensor], how: str, norm: str) -> Tensor:
    """``count`` numbers in rising order: the first ones, or those whose rows in ``slices`` are largest.

    Each of ``slices`` is ``[n, …]``: what a tensor has for each number. All tensors count alike, however large.

    >>> rows = torch.tensor([[1.0, 0], [0, 3], [2, 2]])
    >>> choose(2, [rows], "first", "l2").tolist(), choose(2, [rows], "important", "l1").tolist()
    ([0, 1], [1, 2])
    """
    if how == "first" or count == len(slices[0]):
        return torch.arange(count)
    order = 1 if norm == "l1" else 2
    norms = [
        torch.linalg.vector_norm(rows.detach().double().reshape(len(rows), -1), ord=order, dim=1) for rows in slices
    ]
    score = torch.stack([each / each.mean().clamp(min=1e-30) for each in norms]).mean(0)
    return score.argsort(descending=True, stable=True)[:count].sort().values


def _check_shapes(big: Shape, small: Shape) -> None:
    for what, ours in vars(small).items():
        theirs = getattr(big, what)
        if ours > theirs:
            raise AdapterError(f"A tower with {what} {ours} cannot be inherited from one with {theirs}: it is bigger.")
    if small.width * big.heads != big.width * small.heads:
        raise AdapterError(
            f"The student's heads are {small.width // small.heads} wide, those to inherit {big.width // big.heads}: "
            "give it heads of the same width (vision_cfg.head_width; text_cfg.heads = width / head width)."
        )


def _split(state: State, layers: Sequence[int]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of each of ``layers``, and those outside the layers."""
    blocks: dict[int, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _BLOCK.fullmatch(name)
        known = _BLOCK_AXES if match else _AXES
        part = match[2] if match else name
        if part not in known:
            raise AdapterError(f"The model to inherit from has a tensor {name!r}, which is not one of a plain CLIP's.")
        (blocks.setdefault(int(match[1]), {}) if match else rest)[part] = tensor
    return [blocks[number] for number in layers], rest


def _slices(tensors: Sequence[tuple[Tensor, tuple[str, ...]]], axis: str) -> list[Tensor]:
    """Of every tensor that has ``axis``, ``[n, …]``."""
    return [tensor.movedim(axes.index(axis), 0) for tensor, axes in tensors if axis in axes]


def _head_slices(tensors: Sequence[tuple[Tensor, tuple[str, ...]]], heads: int) -> list[Tensor]:
    """Of every tensor of an attention layer, what belongs to each head: ``[heads, …]``."""
    of_output = [rows.reshape(heads, -1) for rows in _slices(tensors, "heads")]
    return of_output + [rows.reshape(3, heads, -1).transpose(0, 1) for rows in _slices(tensors, "qkv")]


def _take(tensor: Tensor, axes: tuple[str, ...], taken: Mapping[str, Tensor]) -> Tensor:
    for number, axis in enumerate(axes):
        if axis:
            tensor = tensor.index_select(number, taken[axis])
    return tensor.clone()
