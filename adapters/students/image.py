"""A timm network as image student: its classifier is the linear head into the teacher's space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.adapters.encoder import Features
from xmodal.adapters.identity import digest
from xmodal.adapters.locking import Lockable
from xmodal.adapters.network_features import Anatomy, examine, trace
from xmodal.adapters.networks import data_config, make_network
from xmodal.adapters.preprocess import ImagePreprocess
from xmodal.adapters.registration import STUDENTS
from xmodal.errors import AdapterError


class ImageStudent(Lockable):
    """A timm network, whole: what it returns by itself is ``image.embedding``, or ``logits`` for a class student.

    Taps: ``image.embedding`` [B, D] (after the head), ``image.features`` [B, W] (pooled, before it), ``image.map``
    [B, C, H, W] and ``image.tokens`` [B, N, C] (the last features; tokens without class token), ``image.hidden.N``
    (timm's N-th feature: a map, or tokens where the network has tokens), ``logits`` [B, C] of a class student.
    """

    modalities = ("image",)
    preprocess: ImagePreprocess

    def __init__(self, name: str, model: Any, *, classes: bool = False) -> None:
        super().__init__()
        self.name, self.model, self.classes = name, model, classes
        self.architecture = str(model.pretrained_cfg["architecture"])
        self.preprocess = ImagePreprocess(data_config(model))
        self.anatomy: Anatomy = examine(model, self.preprocess.config["input_size"])
        self.num_outputs = int(model.num_classes)
        self.features_dim = self.anatomy.width
        self.embed_dim = self.anatomy.width if classes or not self.num_outputs else self.num_outputs
        if self.num_outputs and not self.anatomy.linear_head:
            raise AdapterError(
                f"The output of {name} is not one linear layer over its pooled features, so it cannot be the head into "
                "a teacher's space. Take a network without auxiliary or convolutional heads, or leave embed_dim out."
            )

    @property
    def linear_head(self) -> nn.Module | None:
        network: Any = self.model
        return network.get_classifier() if self.num_outputs else None

    @property
    def head_taps(self) -> tuple[str, ...]:
        return ("logits" if self.classes else "image.embedding",)

    def taps(self) -> tuple[str, ...]:
        return ("image.embedding", "image.features", *self.anatomy.taps, *(("logits",) if self.classes else ()))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        network: Any = self.model
        (output,) = self.head_taps
        pooled_asked = "image.features" in taps or (self.classes and "image.embedding" in taps) or self.locked
        with self.body_gradients():
            final, features = trace(network, self.anatomy, inputs["image"], taps)
            if final is not None and pooled_asked:
                features["image.features"] = network.forward_head(final, pre_logits=True)
        if final is None:
            return features
        if pooled_asked:
            pooled = features["image.features"]
            if self.classes:
                features["image.embedding"] = pooled
            if output in taps:
                features[output] = network.get_classifier()(pooled)
        elif output in taps:
            features[output] = network.forward_head(final)
        return features

    def identity(self) -> str:
        return digest(
            weights=self.state_hash(),
            dtype=str(next(self.parameters()).dtype),
            network=self.architecture,
            transform=self.preprocess.config,
        )


@STUDENTS.register("image")
def image(
    model: str,
    weights: str | Path = "imagenet",
    embed_dim: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    drop_path: float = 0.0,
    locked: bool = False,
) -> ImageStudent:
    """Any timm network by name, as an image student.

    ``weights``: ``imagenet`` (timm's own trained weights for the name and tag), ``random``, or the path of a weight
    file or of a student folder. ``embed_dim`` is the width of the linear head into the teacher's space, which is the
    network's own classifier; without it the embedding is the pooled features. ``num_classes`` makes a student of
    ``logits`` instead. ``image_size`` in pixels; ``drop_path`` is the rate of stochastic depth in training.
    ``locked``: only the head learns; the network before it stays as it is, in eval mode.
    """
    if embed_dim and num_classes:
        raise AdapterError("A timm network has one head: give student.embed_dim or student.num_classes, not both.")
    choice: bool | str | Path = {"imagenet": True, "random": False}.get(str(weights), weights)
    network = make_network(
        model,
        weights=choice,
        num_classes=num_classes or embed_dim or 0,
        image_size=image_size,
        drop_path=drop_path,
        crop_pct=1.0,
    )
    _wake_head(network)
    # Convolutions train nearly twice as fast this way. A student read from its folder stays as its own library has it,
    # for the two layouts differ by some 3e-6.
    network.to(memory_format=torch.channels_last)
    student = ImageStudent(f"image ({model})", network, classes=bool(num_classes))
    return student.lock() if locked else student


def _wake_head(network: Any) -> None:
    """Some networks are made with a classifier of zeros, whose embeddings have no direction to learn from."""
    head = network.get_classifier()
    if isinstance(head, nn.Linear) and not head.weight.any():
        nn.init.trunc_normal_(head.weight, std=0.02)
