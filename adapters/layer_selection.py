"""A transformers model with some of the layers of a bigger one, its weights taken from there."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from xmodal.adapters.weights import load_into
from xmodal.errors import AdapterError

_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "dropout_rate")


def evenly_spaced(num_layers: int, count: int) -> list[int]:
    """``count`` of ``num_layers`` layers, the first and the last among them, as DistilBERT was made.

    >>> evenly_spaced(12, 6), evenly_spaced(6, 2), evenly_spaced(6, 1)
    ([0, 2, 4, 7, 9, 11], [0, 5], [0])
    """
    if not 0 < count <= num_layers:
        raise AdapterError(f"{count} layers cannot be selected from {num_layers}: take 1 … {num_layers}.")
    # halves go up, which is how DistilBERT's list came about; round() would take the even neighbour
    return [int(layer * (num_layers - 1) / max(count - 1, 1) + 0.5) for layer in range(count)]


def check_layers(layers: Sequence[int], num_layers: int, owner: str) -> list[int]:
    """Layers by number from 0, negative ones counted from the end, in rising order.

    >>> check_layers([0, -1], 6, "model")
    [0, 5]
    """
    wrong = [layer for layer in layers if not -num_layers <= layer < num_layers]
    found = [layer % num_layers for layer in layers]
    if not layers or wrong or found != sorted(set(found)):
        raise AdapterError(
            f"layers {list(layers)} cannot be selected: {owner} has {num_layers} layers, 0 … {num_layers - 1}; name "
            "each once, the lower first."
        )
    return found


def select_layers(model: Any, layers: Sequence[int], dropout: float | None = None) -> Any:
    """A new model of the class of ``model`` with its ``layers`` alone, and all of its other weights.

    ``dropout`` replaces the config's rates. Raises :class:`AdapterError` for a model whose layers are not a list of
    their own modules, such as ALBERT, which has one for all.
    """
    stem, total = layer_list(model), int(model.config.num_hidden_layers)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    for name, value in vars(model.config).items():  # what a config says layer by layer, such as layer_types
        if name.startswith("layer") and isinstance(value, list) and len(value) == total:
            setattr(config, name, [value[layer] for layer in layers])
    for name in _DROPOUTS:
        if dropout is not None and hasattr(config, name):
            setattr(config, name, dropout)
    without_pooler = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    small = type(model)(config, **({"add_pooling_layer": False} if without_pooler else {}))
    numbers = {layer: position for position, layer in enumerate(layers)}
    pattern = re.compile(rf"^{re.escape(stem)}\.(\d+)\.")
    state = {}
    for name, tensor in model.state_dict().items():
        match = pattern.match(name)
        if match is None:
            state[name] = tensor
        elif int(match[1]) in numbers:
            state[f"{stem}.{numbers[int(match[1])]}.{name[match.end() :]}"] = tensor
    if without_pooler:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    load_into(small, state, f"layers {list(layers)} of {type(model).__name__}")
    return small


def layer_list(model: Any) -> str:
    """The path of the list that holds the layers of a transformers model.

    Raises :class:`AdapterError` where there is none of as many modules as the config has layers.
    """
    total = int(model.config.num_hidden_layers)
    found = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == total
    ]
    if not found:
        raise AdapterError(
            f"{type(model).__name__} has no list of {total} layers to select from: its layers share their weights. "
            "Take another model, or make the student from random weights."
        )
    return str(min(found, key=lambda name: name.count(".")))
