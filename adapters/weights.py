"""Weight files into modules, with a message where they are broken or of another shape."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from xmodal.errors import AdapterError, first_line

_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pth")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a weight file, or in a folder that holds one; never unpickles more than tensors.

    Raises :class:`~xmodal.errors.AdapterError` where there is none or it is truncated.
    """
    if path.is_dir():
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if not found:
            raise AdapterError(f"{path} holds no weights: none of {', '.join(_NAMES)} is there.")
        path = found[0]
    if not path.is_file():
        raise AdapterError(f"There is no weight file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path, device="cpu")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = first_line(error)
        raise AdapterError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a weight file: {reason:.200} "
            "Fetch or save it again."
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AdapterError(f"{path} holds no mapping of names to tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: str, optional: Sequence[str] = ()) -> None:
    """Copy ``state`` into ``module``; names that start with one of ``optional`` may be missing.

    Raises :class:`~xmodal.errors.AdapterError` that lists the names and shapes that do not agree.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state and not name.startswith(tuple(optional))]
    problems += [f"{name} is not of this model" for name in state if name not in own]
    problems += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        more = f"; … {len(problems)} in all" if len(problems) > 5 else ""
        raise AdapterError(f"The weights in {source} are not of this model: {'; '.join(problems[:5])}{more}.")
    module.load_state_dict(dict(state), strict=False)
