"""Any timm network as image teacher, with its own transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xmodal.adapters.encoder import Encoder, Features
from xmodal.adapters.identity import digest
from xmodal.adapters.network_features import examine, trace
from xmodal.adapters.networks import data_config, make_network
from xmodal.adapters.preprocess import ImagePreprocess
from xmodal.adapters.registration import TEACHERS


class TimmTeacher(Encoder):
    """A timm network and its evaluation transform.

    Taps: ``image.embedding`` [B, D] (pooled, what the classifier sees), ``image.map`` [B, C, H, W] and ``image.tokens``
    [B, N, C] (the last features; tokens without class token), ``image.hidden.N`` (timm's N-th feature: a map, or tokens
    where the network has tokens), ``logits`` [B, C] where it has a classifier.
    """

    modalities = ("image",)
    preprocess: ImagePreprocess

    def __init__(self, name: str, model: Any) -> None:
        super().__init__()
        self.name, self.model = name, model
        self.architecture = str(model.pretrained_cfg["architecture"])
        self.preprocess = ImagePreprocess(data_config(model))
        self.anatomy = examine(model, self.preprocess.config["input_size"])
        self.embed_dim = self.anatomy.width

    def taps(self) -> tuple[str, ...]:
        return ("image.embedding", *self.anatomy.taps, *(("logits",) if self.model.num_classes else ()))

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        network: Any = self.model
        final, features = trace(network, self.anatomy, inputs["image"], taps)
        if "image.embedding" in taps:
            features["image.embedding"] = network.forward_head(final, pre_logits=True)
        if "logits" in taps:
            features["logits"] = network.forward_head(final)
        return features

    def identity(self) -> str:
        return digest(
            weights=self.state_hash(),
            dtype=str(next(self.parameters()).dtype),
            network=self.architecture,
            transform=self.preprocess.config,
        )


@TEACHERS.register("timm")
def timm(model: str, pretrained: bool | str = True, image_size: int | None = None) -> TimmTeacher:
    """A timm network by name, or by ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.

    ``pretrained``: True for timm's own weights for the name and tag, False for random ones, or the path of a weight
    file or student folder. ``image_size``, pixels, in place of the network's own.
    """
    network = make_network(model, weights=pretrained, image_size=image_size)
    return TimmTeacher(f"timm ({model})", network)
