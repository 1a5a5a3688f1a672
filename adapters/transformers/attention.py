"""What the attention layers of a transformers model make on the way: queries, keys, values and scores.

All of it is recorded by hooks that live for one forward. Queries, keys and values are the outputs of a layer's own
linear modules. Scores are what the layer hands to its softmax, so that its scale, its mask, a causal one included, its
position bias and its rotation are in them whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xmodal.errors import AdapterError
from xmodal.taps import layer_of

INTERNALS = ("scores", "query", "key", "value")
EAGER = {"attention", "scores"}
"""What fused kernels never hold."""

_LINEARS = (
    ("q_proj", "k_proj", "v_proj"),  # CLIP, SigLIP, ViT, DINOv2, DINOv3
    ("query", "key", "value"),  # BERT, RoBERTa, ELECTRA
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("q", "k", "v"),  # MPNet, T5
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2 and v3
)
_FUSED = ("in_proj", "q_bias", "v_bias")  # DeBERTa
_SOFTMAX = {nn.functional.softmax, torch.softmax, Tensor.softmax}

Found = dict[tuple[str, int], Tensor]
"""(``query``, layer) → tensor."""


@dataclass(frozen=True)
class AttentionLayer:
    """One layer's attention: ``linears`` are the modules of query, key and value, or one that makes all three."""

    module: Any
    linears: tuple[str, ...]

    def watch(self, what: str, keep: Callable[[Tensor], None]) -> Any:
        """Hook that hands the layer's ``what`` to ``keep``; the handle to remove it."""
        part = ("query", "key", "value").index(what)
        if len(self.linears) == 3:
            return getattr(self.module, self.linears[part]).register_forward_hook(lambda m, i, made: keep(made))
        return self.module.in_proj.register_forward_hook(lambda m, i, made: keep(self._split(made, part)))

    def _split(self, made: Tensor, part: int) -> Tensor:
        """Query, key or value ``[B, L, D]`` out of DeBERTa's ``[B, L, 3 D]``, in which each head has its three."""
        heads = made.view(*made.shape[:-1], self.module.num_attention_heads, 3, -1)
        bias = (self.module.q_bias, None, self.module.v_bias)[part]
        own: Tensor = heads[..., part, :].flatten(-2)
        if bias is not None:
            own = own + bias
        return own


def attention_layers(model: nn.Module, num_layers: int) -> tuple[AttentionLayer, ...]:
    """The self-attention of each layer of ``model``, first to last; empty where we cannot tell them apart.

    That is so where layers share one module (ALBERT) or make query, key and value at once (ModernBERT).
    """
    found = []
    for name, module in model.named_modules():
        if "crossattention" in name.lower():
            continue
        for linears in (*_LINEARS, _FUSED):
            if all(hasattr(module, attribute) for attribute in linears):
                found.append(AttentionLayer(module, linears if linears != _FUSED else _FUSED[:1]))
                break
    return tuple(found) if len(found) == num_layers else ()


def internal_taps(modality: str, num_layers: int) -> tuple[str, ...]:
    """``text.scores.0`` … for every layer."""
    return tuple(f"{modality}.{what}.{number}" for what in INTERNALS for number in range(num_layers))


def run_with_layers(
    model: nn.Module, num_layers: int, taps: Sequence[str], call: Callable[..., Any]
) -> tuple[Any, dict[str, Tensor]]:
    """What ``call``, a forward of ``model``, returns, and those of the ``taps`` that have a layer.

    ``call`` gets ``output_hidden_states`` and ``output_attentions``. Raises AdapterError where the library returns less
    than it was asked for: a loss over nothing would silently be zero.
    """
    layered = [(tap, stem.rpartition(".")[2], n) for tap in taps for stem, n in [layer_of(tap)] if n is not None]
    wants = {what for _, what, _ in layered}
    with (
        attention_weights(model, wanted=bool(EAGER & wants)),
        recorded(model, num_layers, [(what, number) for _, what, number in layered]) as found,
    ):
        output = call(output_hidden_states="hidden" in wants, output_attentions="attention" in wants)
    features: dict[str, Tensor] = {}
    for tap, what, number in layered:
        if what in INTERNALS:
            features[tap] = recorded_output(found, what, number, tap, model)
        else:
            states = output.hidden_states if what == "hidden" else output.attentions
            features[tap] = layer_output(states, number, tap, model)
    return output, features


@contextmanager
def attention_weights(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Eager attention while inside, where ``wanted``: fused kernels never hold the probabilities."""
    config: Any = model.config
    before = config._attn_implementation
    if not wanted or before == "eager":
        yield
        return
    model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_attn_implementation(before)  # type: ignore[operator]


@contextmanager
def recorded(model: nn.Module, num_layers: int, wanted: Iterable[tuple[str, int]]) -> Iterator[Found]:
    """Inside, a forward of ``model`` fills the mapping with the ``wanted`` (what, layer); afterwards no hook is left.

    Scores need eager attention (:func:`attention_weights`). Others than :data:`INTERNALS` are left out.
    """
    found: Found = {}
    wanted = [(what, number) for what, number in wanted if what in INTERNALS]
    if not wanted:
        yield found
        return
    layers = attention_layers(model, num_layers)
    softmax = _SoftmaxInputs(found)
    handles: list[Any] = []
    try:
        for what, number in wanted:
            if what == "scores":
                handles += softmax.watch(layers[number].module, number)
            else:
                # the first call of a forward: DeBERTa-v2 sends its relative positions through the same modules
                handles.append(layers[number].watch(what, _keep(found, (what, number))))
        if softmax.watched:
            with softmax:
                yield found
        else:
            yield found
    finally:
        for handle in handles:
            handle.remove()


def layer_output(states: Sequence[Tensor | None] | None, layer: int, tap: str, model: nn.Module) -> Tensor:
    """One layer's state or attention.

    Raises :class:`AdapterError` where the library returned none: a loss over nothing would silently be zero.
    """
    state = states[layer] if states is not None and layer < len(states) else None
    if state is None:
        raise AdapterError(f"{type(model).__name__} gave no {tap}; its library does not return it.")
    return state


def recorded_output(found: Found, what: str, layer: int, tap: str, model: nn.Module) -> Tensor:
    """One of :func:`recorded`, with the same error as :func:`layer_output`."""
    return layer_output([found.get((what, layer))], 0, tap, model)


def _keep(found: Found, key: tuple[str, int]) -> Callable[[Tensor], None]:
    def keep(tensor: Tensor) -> None:
        found.setdefault(key, tensor)

    return keep


class _SoftmaxInputs(TorchFunctionMode):
    """Keeps what goes into the softmax while the forward is inside a watched layer."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found, self.layer, self.watched = found, None, False

    layer: int | None

    def watch(self, module: nn.Module, number: int) -> list[Any]:
        self.watched = True

        def enter(*_: Any) -> None:
            self.layer = number

        def leave(*_: Any) -> None:
            self.layer = None

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.layer is not None and func in _SOFTMAX:
            self.found.setdefault(("scores", self.layer), args[0])
        return func(*args, **(kwargs or {}))
