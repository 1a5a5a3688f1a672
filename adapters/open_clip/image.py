"""open_clip's image towers: its own vision transformer, its ResNet, and timm networks in its wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from xmodal.adapters.encoder import Features
from xmodal.adapters.network_features import examine, trace
from xmodal.adapters.open_clip.blocks import Tower, block_taps, run_blocks
from xmodal.errors import AdapterError
from xmodal.taps import layer_of


def image_tower(visual: Any) -> Tower:
    """The tower around ``visual``, by its class."""
    from open_clip import transformer
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    towers: list[tuple[Any, Any]] = [
        (transformer.VisionTransformer, VisionTransformer),
        (ModifiedResNet, ResNet),
        (TimmModel, Timm),
    ]
    for kind, tower in towers:
        if isinstance(visual, kind):
            made: Tower = tower(visual)
            return made
    raise AdapterError(f"An image tower of class {type(visual).__name__} is not one that we read.")


class VisionTransformer:
    """open_clip's ``VisionTransformer``: a class token before the patches."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        pooler = () if visual.attn_pool is None else ("image.pooled",)
        own = ("image.embedding", "image.features", "image.tokens", "image.map", *pooler)
        self.taps: tuple[str, ...] = (*own, *block_taps("image", visual.transformer))

    def __call__(self, images: Tensor, taps: Sequence[str]) -> Features:
        visual = self.visual
        asked = {tap for tap in taps if layer_of(tap)[1] is None}
        last, features = run_blocks(visual.transformer, visual._embeds(images), None, taps, to_end=bool(asked))
        if not asked:
            return features
        patches = last[:, 1:]
        if visual.attn_pool is None or asked & {"image.embedding", "image.features", "image.pooled"}:
            pooled, tokens = visual._pool(last)
            features["image.features"] = pooled
            features["image.embedding"] = pooled if visual.proj is None else pooled @ visual.proj
            if visual.attn_pool is not None:
                features["image.pooled"] = tokens
            else:
                patches = tokens if tokens.shape[1] == patches.shape[1] else tokens[:, 1:]
        features["image.tokens"] = patches
        features["image.map"] = patches.transpose(1, 2).reshape(len(patches), -1, *visual.grid_size)
        return features


class ResNet:
    """open_clip's ``ModifiedResNet``, whose attention pooling makes the embedding: there is nothing before it."""

    taps: tuple[str, ...] = (
        "image.embedding",
        "image.tokens",
        "image.map",
        *(f"image.hidden.{number}" for number in range(5)),
    )

    def __init__(self, visual: Any) -> None:
        self.visual = visual

    def __call__(self, images: Tensor, taps: Sequence[str]) -> Features:
        visual = self.visual
        layers = [layer_of(tap)[1] for tap in taps]
        depth = 5 if None in layers else 1 + max(layer for layer in layers if layer is not None)
        features: Features = {}
        states = images
        # as forward_intermediates, whose stop_early is the wrong way round for this network
        for number, stage in enumerate((visual.stem, visual.layer1, visual.layer2, visual.layer3, visual.layer4)):
            if number < depth:
                features[f"image.hidden.{number}"] = states = stage(states)
        if None in layers:
            features["image.map"], features["image.tokens"] = states, states.flatten(2).transpose(1, 2)
        if "image.embedding" in taps:
            features["image.embedding"] = visual.attnpool(states)
        return features


class Timm:
    """A timm network in open_clip's ``TimmModel``: ``trunk``, then ``head``."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.anatomy = examine(visual.trunk, (3, *visual.image_size))
        pools = "pool" in dict(visual.head.named_children())  # then the head takes a map, and there is no pooled state
        self.taps: tuple[str, ...] = (
            "image.embedding",
            *(() if pools else ("image.features",)),
            *self.anatomy.taps,
        )

    def __call__(self, images: Tensor, taps: Sequence[str]) -> Features:
        trunk, head = self.visual.trunk, self.visual.head
        final, features = trace(trunk, self.anatomy, images, taps)
        if "image.features" in taps:  # a trunk with a classifier is its own projection
            features["image.features"] = trunk.forward_head(final, pre_logits=True)
        if "image.embedding" in taps:
            features["image.embedding"] = head(trunk.forward_head(final))
        return features
