"""What turns a sample into a model's inputs: pictures by timm's transform, texts by a transformers tokenizer.

All are picklable and hold no weights, so that loader workers can have them cheaply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xmodal.adapters.encoder import Preprocess, Sample, finish, gather
from xmodal.data.memory import empty_batch
from xmodal.errors import AdapterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LAST_CALL = ("truncation", "padding")  # a fast tokenizer keeps the settings of its last call
_TRANSFORM_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


class ImagePreprocess:
    """timm's own evaluation transform of ``config`` (what ``timm.data.resolve_model_data_config`` gives)."""

    fields: tuple[str, ...] = ("image",)

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = {key: config[key] for key in _TRANSFORM_KEYS}
        self._transform: Callable[[Image.Image], Tensor] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the network receives, pixels."""
        height, width = self.config["input_size"][-2:]
        return height, width

    def __call__(self, sample: Sample) -> dict[str, Any]:
        image = to_rgb(sample["image"])
        if self._fits(image):
            return {"image": image}  # only collate reads its pixels
        if self._transform is None:
            from timm.data.transforms_factory import create_transform

            self._transform = create_transform(**self.config, is_training=False)
        return {"image": self._transform(image)}

    def _fits(self, image: Image.Image) -> bool:
        """Whether the transform would leave all pixels as they are, as it does with a training picture."""
        height, width = self.image_size
        return self.config["crop_pct"] == 1 and image.size == (width, height) and height == width

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.finish(self.gather(items))

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch as it travels between processes: while all are pictures their bytes, a quarter of the floats."""
        images = [item["image"] for item in items]
        if all(isinstance(image, Image.Image) for image in images):
            pixels = empty_batch((len(images), *self.image_size, 3), torch.uint8)
            for row, image in zip(pixels.numpy(), images, strict=True):
                row[:] = image
            return {"image": pixels}
        tensors = [image if isinstance(image, Tensor) else self._normalised(image) for image in images]
        return {"image": torch.stack(tensors, out=empty_batch((len(tensors), *tensors[0].shape), tensors[0].dtype))}

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was gathered, as the network wants it."""
        images = inputs.get("image")
        if images is None or images.dtype != torch.uint8:
            return dict(inputs)
        batch, height, width, channels = images.shape
        finished = empty_batch((batch, channels, height, width), torch.float32)
        statistics = self._statistics()
        for pixels, out in zip(images, finished, strict=True):  # one by one they stay in the processor's cache
            _normalise(pixels, out, *statistics)
        return {**inputs, "image": finished}

    def _normalised(self, image: Image.Image) -> Tensor:
        return _normalise(torch.from_numpy(np.array(image)), torch.empty(3, *self.image_size), *self._statistics())

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(self.config[name]).view(-1, 1, 1) for name in ("mean", "std"))
        return mean, std

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_transform": None}

    def __repr__(self) -> str:
        return f"ImagePreprocess({json.dumps(self.config)})"


class TextPreprocess:
    """A tokenizer over whole batches: padded to the longest text, cut at ``max_length`` tokens.

    ``prompt`` is put before every text. Inputs: ``text_ids``, ``text_mask`` and, where the model has them,
    ``text_types``, all int64 ``[B, L]``.
    """

    fields: tuple[str, ...] = ("text",)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, prompt: str = "") -> None:
        self.tokenizer, self.max_length, self.prompt = tokenizer, max_length, prompt

    def __call__(self, sample: Sample) -> dict[str, str]:
        return {"text": self.prompt + text_in(sample)}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            [item["text"] for item in items],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        inputs = {"text_ids": tokens["input_ids"], "text_mask": tokens["attention_mask"]}
        if "token_type_ids" in tokens:
            inputs["text_types"] = tokens["token_type_ids"]
        return inputs

    def tokenizer_state(self) -> dict[str, Any]:
        """All that decides the tokens of a text, apart from the limit."""
        if not self.tokenizer.is_fast:
            return dict(self.tokenizer.get_vocab())
        state: dict[str, Any] = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return {key: value for key, value in state.items() if key not in _LAST_CALL}

    def prompt_length(self) -> int:
        """Tokens that the prompt takes at the head of a text, the opening special token included."""
        if not self.prompt:
            return 0
        ids = self.tokenizer(self.prompt)["input_ids"]
        return len(ids) - (1 if ids[-1] in self.tokenizer.all_special_ids else 0)

    def __repr__(self) -> str:
        return f"TextPreprocess({type(self.tokenizer).__name__}, max_length={self.max_length}, prompt={self.prompt!r})"


class JoinedPreprocess:
    """Several preprocessings as one; a field that a sample lacks is left out, and so are its inputs."""

    def __init__(self, parts: Sequence[Preprocess]) -> None:
        self.parts = tuple(parts)
        self.fields = tuple(dict.fromkeys(field for part in self.parts for field in part.fields))

    def __call__(self, sample: Sample) -> dict[str, Any]:
        item: dict[str, Any] = {}
        for part in self.parts:
            if all(field in sample for field in part.fields):
                item.update(part(sample))
        return item

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.finish(self.gather(items))

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = {}
        for part in self.parts:
            if all(field in items[0] for field in part.fields):
                batch.update(gather(part, items))
        return batch

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for part in self.parts:
            inputs = finish(part, inputs)
        return dict(inputs)

    def __repr__(self) -> str:
        return f"JoinedPreprocess({', '.join(map(repr, self.parts))})"


def _normalise(pixels: Tensor, out: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The same operations as timm's, to the bit: uint8 ``[H, W, C]`` → ``out``, float32 ``[C, H, W]``."""
    return out.copy_(pixels.permute(2, 0, 1)).div_(255).sub_(mean).div_(std)


def text_in(sample: Sample) -> str:
    """The sample's text. Raises :class:`AdapterError` for anything else, such as a list of texts."""
    text = sample["text"]
    if not isinstance(text, str):
        raise AdapterError(f"A text must be a str; given {type(text).__name__}: {text!r:.80}")
    return text


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, a transparent one laid on white."""
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
