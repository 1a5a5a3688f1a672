"""One tower of a transformers model, image or text: from its inputs to the taps that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xmodal.adapters.encoder import Features
from xmodal.adapters.transformers.attention import attention_layers, internal_taps, run_with_layers
from xmodal.errors import AdapterError


@dataclass(frozen=True)
class Tower:
    """``module`` is the library's tower; ``projection`` maps its pooled state into the shared space, if there is one.

    ``pools`` says which state is the feature (see ``Family``). ``classifier`` is the model around the module that makes
    logits. ``patch_size`` is None for a text tower; ``interpolates``: position embeddings are resized when told to.
    ``has_internals``: queries, keys, values and scores can be had. ``masks`` and ``types``: the model is given the
    mask and the token types of the text.
    """

    kind: str
    module: Any
    pools: str
    has_internals: bool
    projection: Any = None
    classifier: Any = None
    patch_size: int | None = None
    interpolates: bool = False
    masks: bool = True
    types: bool = False

    @property
    def num_layers(self) -> int:
        return int(self.module.config.num_hidden_layers)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token and registers."""
        first = 0 if type(self.module).__name__.startswith("Siglip") else 1
        return first + int(getattr(self.module.config, "num_register_tokens", 0) or 0)

    @property
    def width(self) -> int:
        """Of the embedding."""
        config = self.module.config
        if self.projection is not None:
            return int(self.projection.out_features)
        if self.pools == "last":
            return int(config.projection_size)
        own = getattr(config, "pooler_output_size", None) if getattr(self.module, "pooler", None) is not None else None
        return int(own or config.hidden_size)

    def taps(self) -> tuple[str, ...]:
        of, layers = self.kind, range(self.num_layers)
        return (
            f"{of}.embedding",
            f"{of}.features",
            f"{of}.tokens",
            *((f"{of}.map",) if self.patch_size else ()),
            *(f"{of}.hidden.{layer}" for layer in range(self.num_layers + 1)),
            *(f"{of}.attention.{layer}" for layer in layers),
            *internal_taps(of, self.num_layers if self.has_internals else 0),
            *(() if self.patch_size else (f"{of}.mask",)),
            *(("logits",) if self.classifier is not None else ()),
        )

    def compute(self, inputs: Mapping[str, Tensor], taps: Sequence[str]) -> Features:
        """The ``taps``, which are this tower's."""
        field = "image" if self.patch_size else "text_ids"
        if field not in inputs:
            raise AdapterError(f"{', '.join(taps)} needs the {self.kind} of a sample; there is none in this batch.")
        features: Features = {} if self.patch_size else {"text.mask": inputs["text_mask"].bool()}
        rest = set(taps) - set(features)
        if not rest:
            return features
        arguments = self._arguments(inputs)

        def call(**asked: bool) -> Any:
            output, logits = self._run(arguments, with_logits="logits" in taps, **asked)
            if logits is not None:
                features["logits"] = logits
            return output

        output, layered = run_with_layers(self.module, self.num_layers, taps, call)
        return features | layered | self._summaries(output, rest, inputs.get("image"))

    def _arguments(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.patch_size:
            images = inputs["image"].to(next(self.module.parameters()).dtype)
            arguments: dict[str, Any] = {"pixel_values": images}
            own = self.module.config.image_size
            if self.interpolates and tuple(images.shape[-2:]) != ((own, own) if isinstance(own, int) else tuple(own)):
                arguments["interpolate_pos_encoding"] = True
            return arguments
        arguments = {"input_ids": inputs["text_ids"]}
        if self.masks:
            arguments["attention_mask"] = inputs["text_mask"]
        if self.types and "text_types" in inputs:
            arguments["token_type_ids"] = inputs["text_types"]
        return arguments

    def _run(self, arguments: dict[str, Any], *, with_logits: bool, **asked: bool) -> tuple[Any, Tensor | None]:
        if not with_logits:
            return self.module(**arguments, **asked, return_dict=True), None
        inner: list[Any] = []
        handle = self.module.register_forward_hook(lambda module, given, output: inner.append(output))
        try:
            logits: Tensor = self.classifier(**arguments, **asked).logits
        finally:
            handle.remove()
        return inner[0], logits

    def _summaries(self, output: Any, asked: set[str], images: Tensor | None) -> Features:
        states = output.last_hidden_state
        made: Features = {}
        if asked & {f"{self.kind}.embedding", f"{self.kind}.features"}:
            pooled = getattr(output, "pooler_output", None)
            made[f"{self.kind}.features"], made[f"{self.kind}.embedding"] = self._pooled(states, pooled)
        tokens = states[:, self.prefix :] if self.patch_size else states
        made[f"{self.kind}.tokens"] = tokens
        if self.patch_size and images is not None and "image.map" in asked:
            rows = images.shape[-2] // self.patch_size
            made["image.map"] = tokens.transpose(1, 2).unflatten(2, (rows, -1))
        return made

    def _pooled(self, states: Tensor, pooled: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features and embedding."""
        if self.pools == "pooled":
            if pooled is None:
                raise AdapterError(
                    f"{type(self.module).__name__} has no pooling head, and so no {self.kind}.embedding."
                )
            features = pooled
        else:
            features = states[:, 0 if self.pools == "first" else -1]
        if self.projection is not None:
            return features, self.projection(features)
        return features, features if pooled is None else pooled


def side_of(size: Any) -> int:
    """A patch's side, of a config that gives a number or a pair."""
    sides = {int(side) for side in size} if isinstance(size, (list, tuple)) else {int(size)}
    if len(sides) > 1:
        raise AdapterError(f"Patches of {size} pixels are not square.")
    return sides.pop()


def build_tower(kind: str, module: Any, pools: str, **options: Any) -> Tower:
    """The tower around ``module``; whether its layers' queries, keys, values and scores can be had is found out."""
    found = attention_layers(module, int(module.config.num_hidden_layers))
    return Tower(kind, module, pools, bool(found), **options)
