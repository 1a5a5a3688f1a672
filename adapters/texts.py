"""Further texts of a sample, such as its translation: a model of texts reads each under the text's own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xmodal.adapters.preprocessing import Preprocess, Sample, finish, gather

MARK = ":"
"""Between a text's name and the name of an input: ``english:text_ids``."""


class TextsPreprocess:
    """A model's preprocessing, which does with each of the texts ``names`` what it does with ``text``."""

    def __init__(self, preprocess: Preprocess, names: Sequence[str]) -> None:
        self.preprocess, self.names = preprocess, tuple(names)
        self.fields = (*preprocess.fields, *self.names)

    def __call__(self, sample: Sample) -> dict[str, Any]:
        own = any(field in sample for field in self.preprocess.fields)
        item = {"": self.preprocess(sample)} if own else {}
        return item | {name: self.preprocess({"text": sample[name]}) for name in self.names if name in sample}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.finish(self.gather(items))

    def gather(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return {
            marked(name, key): tensor
            for name in items[0]
            for key, tensor in gather(self.preprocess, [item[name] for item in items]).items()
        }

    def finish(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            marked(name, key): tensor
            for name in ("", *self.names)
            if (own := inputs_of(name, inputs))
            for key, tensor in finish(self.preprocess, own).items()
        }

    def __repr__(self) -> str:
        return f"TextsPreprocess({self.preprocess!r}, {', '.join(self.names)})"


def marked(name: str, key: str) -> str:
    """The name of an input of the text ``name``; of the sample's own text and picture it is as it was."""
    return f"{name}{MARK}{key}" if name else key


def inputs_of(name: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of the text ``name``, as the model calls them; those of no text but the sample's own for ``""``."""
    if not name:
        return {key: tensor for key, tensor in inputs.items() if MARK not in key}
    head = name + MARK
    return {key.removeprefix(head): tensor for key, tensor in inputs.items() if key.startswith(head)}
