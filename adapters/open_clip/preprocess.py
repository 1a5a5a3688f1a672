"""open_clip's own picture transform and tokenizer, picklable and without weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xmodal.adapters.encoder import Sample
from xmodal.adapters.preprocess import ImagePreprocess, text_in, to_rgb

_TABLES = ("byte_encoder", "byte_decoder", "encoder", "decoder", "bpe_ranks", "cache", "pat")
_LAST_CALL = ("truncation", "padding")  # a fast tokenizer keeps the settings of its last call


class OpenClipPictures(ImagePreprocess):
    """open_clip's evaluation transform of ``settings``, the model's ``visual.preprocess_cfg``.

    All its ways to resize (``shortest``, ``longest``, ``squash``) leave the pixels of a picture that has the model's
    size as they are: such a picture travels as bytes and is normalised by the same operations.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        size = settings["size"]
        height, width = (size, size) if isinstance(size, int) else size
        mean, std = (
            list(value) if isinstance(value, Sequence) else [value] * 3 for value in (settings["mean"], settings["std"])
        )
        self.config = {**settings, "input_size": (3, height, width), "mean": mean, "std": std}
        self._transform = None

    def __call__(self, sample: Sample) -> dict[str, Any]:
        image = to_rgb(sample["image"])
        if self._fits(image):
            return {"image": image}  # only collate reads its pixels
        if self._transform is None:
            from open_clip.transform import PreprocessCfg, image_transform_v2

            own = {key: value for key, value in self.config.items() if key != "input_size"}
            self._transform = image_transform_v2(PreprocessCfg(**own), is_train=False)
        return {"image": self._transform(image)}

    def _fits(self, image: Image.Image) -> bool:
        height, width = self.image_size
        return image.size == (width, height)

    def __repr__(self) -> str:
        return f"OpenClipPictures({json.dumps(self.config)})"


class OpenClipTexts:
    """An open_clip tokenizer: every text padded to, and cut at, the model's context length.

    Inputs: ``text_ids`` and ``text_mask`` (true where there is a token), int64 ``[B, L]``.
    """

    fields: tuple[str, ...] = ("text",)

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, sample: Sample) -> dict[str, str]:
        return {"text": text_in(sample)}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids = self.tokenizer([item["text"] for item in items])
        return {"text_ids": ids, "text_mask": self._mask(ids).long()}

    def _mask(self, ids: Tensor) -> Tensor:
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:  # padded with 0, which is also the id of "!": whatever comes before the last token is one
            after = ids.ne(0).int().flip(1).argmax(1, keepdim=True)
            ends: Tensor = torch.arange(ids.shape[1]) < ids.shape[1] - after
            return ends
        real: Tensor = ids != inner.pad_token_id
        if inner.pad_token_id == inner.eos_token_id:  # SigLIP's: the first of the row's end is the text's own
            real[:, 1:] |= real[:, :-1].clone()
            real[:, 0] = True
        return real

    def settings(self) -> dict[str, Any]:
        """All that decides the tokens of a text."""
        tokenizer = self.tokenizer
        inner = getattr(tokenizer, "tokenizer", None)
        if inner is None:
            vocabulary: Any = list(tokenizer.encoder)
        elif getattr(inner, "is_fast", False):
            state: dict[str, Any] = json.loads(inner.backend_tokenizer.to_str())
            vocabulary = {key: value for key, value in state.items() if key not in _LAST_CALL}
        else:
            vocabulary = inner.get_vocab()
        text = json.dumps(vocabulary, sort_keys=True)
        return {
            "kind": type(tokenizer).__name__,
            "vocabulary": hashlib.sha256(text.encode()).hexdigest(),
            "context_length": tokenizer.context_length,
            "clean": getattr(getattr(tokenizer, "clean_fn", None), "__name__", None),
            "reduction": repr(getattr(tokenizer, "reduction_fn", None)).partition(" at ")[0],
            "mode": getattr(tokenizer, "tokenizer_mode", None),
            "strip_sep_token": getattr(tokenizer, "strip_sep_token", None),
            "pad": getattr(inner, "pad_token_id", 0),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Without the tables that open_clip itself carries, which are two megabytes."""
        if not _is_clips_own(self.tokenizer):
            return {"tokenizer": self.tokenizer}
        own = {name: value for name, value in vars(self.tokenizer).items() if name not in _TABLES}
        added = [self.tokenizer.decoder[number] for number in self.tokenizer.all_special_ids[2:]]
        return {"own": own, "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "tokenizer" in state:
            self.tokenizer = state["tokenizer"]
            return
        from open_clip.tokenizer import SimpleTokenizer

        self.tokenizer = SimpleTokenizer(additional_special_tokens=state["added"] or None)
        vars(self.tokenizer).update(state["own"])

    def __repr__(self) -> str:
        return f"OpenClipTexts({type(self.tokenizer).__name__}, context_length={self.tokenizer.context_length})"


def _is_clips_own(tokenizer: Any) -> bool:
    """Whether this is CLIP's tokenizer over the vocabulary that open_clip carries."""
    from open_clip import tokenizer as known

    return type(tokenizer) is known.SimpleTokenizer and tokenizer.bpe_ranks == known._tokenizer.bpe_ranks
