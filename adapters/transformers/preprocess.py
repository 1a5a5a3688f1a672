"""A transformers image processor and a tokenizer with its own padding, as preprocessing that workers run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xmodal.adapters.encoder import Sample
from xmodal.adapters.preprocess import TextPreprocess, to_rgb
from xmodal.data.memory import empty_batch
from xmodal.errors import AdapterError


class ProcessorPreprocess:
    """The library's own image processor, the one that it picks itself. Input: ``image``, float32 ``[B, 3, H, W]``.

    Where the processor only rescales and normalises after resizing, pictures travel between processes as bytes and
    that is done where the batch is asked for: a quarter of the memory, and the same numbers.
    """

    fields: tuple[str, ...] = ("image",)

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._bytes_travel = _resizes_bytes(processor)
        shapes: set[tuple[int, int]] = set()
        for size in ((64, 48), (48, 64), (90, 31)):
            height, width = self._pixels(Image.new("RGB", size)).shape[-2:]
            shapes.add((height, width))
        if len(shapes) > 1:
            raise AdapterError(
                f"{type(processor).__name__} gives pictures of unlike shape ({', '.join(map(str, sorted(shapes)))}), "
                "which make no batch. Give an image_size, pixels: pictures are then resized and cropped to its square."
            )
        self.image_size: tuple[int, int] = shapes.pop()
        """Height and width that the network receives, pixels."""

    def __call__(self, sample: Sample) -> dict[str, Any]:
        return {"image": self._pixels(to_rgb(sample["image"]))}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.finish(self.gather(items))

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        pictures = [item["image"] for item in items]
        first = pictures[0]
        return {"image": torch.stack(pictures, out=empty_batch((len(pictures), *first.shape), first.dtype))}

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = inputs.get("image")
        if images is None or images.dtype != torch.uint8:
            return dict(inputs)
        own = self.processor
        finished = own.rescale_and_normalize(
            images, own.do_rescale, own.rescale_factor, own.do_normalize, tuple(own.image_mean), tuple(own.image_std)
        )
        return {**inputs, "image": finished}

    def settings(self) -> dict[str, Any]:
        """All that decides the pixels."""
        settings: dict[str, Any] = json.loads(self.processor.to_json_string())
        return settings

    def _pixels(self, image: Image.Image) -> Tensor:
        later = {"do_rescale": False, "do_normalize": False} if self._bytes_travel else {}
        pixels: Tensor = self.processor(image, return_tensors="pt", **later)["pixel_values"][0]
        return pixels

    def __repr__(self) -> str:
        return f"ProcessorPreprocess({json.dumps(self.settings(), sort_keys=True)})"


def _resizes_bytes(processor: Any) -> bool:
    """Whether ``processor`` resizes and crops bytes, and then rescales and normalises: DINOv3's resizes floats."""
    from transformers.image_processing_backends import TorchvisionBackend

    steps = getattr(type(processor), "_preprocess", None)
    plain = steps is TorchvisionBackend._preprocess and not getattr(processor, "do_pad", None)
    return plain and bool(processor.do_rescale and processor.do_normalize)


class PaddedTextPreprocess(TextPreprocess):
    """Texts as their model was trained on them: ``pads`` is ``longest`` (of the batch) or ``max_length``.

    The mask is made whether or not the model takes it.
    """

    def __init__(self, tokenizer: Any, max_length: int, pads: str = "longest") -> None:
        super().__init__(tokenizer, max_length)
        self.pads = pads

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            [item["text"] for item in items],
            padding=self.pads,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        names = {"input_ids": "text_ids", "attention_mask": "text_mask", "token_type_ids": "text_types"}
        return {own: tokens[name] for name, own in names.items() if name in tokens}

    def settings(self) -> dict[str, Any]:
        """All that decides the tokens."""
        own = self.tokenizer
        return {
            "kind": type(own).__name__,
            "state": self.tokenizer_state(),
            "lower": bool(getattr(own, "do_lower_case", False)),
            "side": own.padding_side,
            "inputs": list(own.model_input_names),
            "pads": self.pads,
            "max_length": self.max_length,
        }

    def __repr__(self) -> str:
        kind = type(self.tokenizer).__name__
        return f"PaddedTextPreprocess({kind}, max_length={self.max_length}, pads={self.pads!r})"
