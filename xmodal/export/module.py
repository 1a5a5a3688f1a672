"""A student that is the user's own ``nn.Module``: its state dict, and the class that it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.module_encoder import ModuleEncoder
from xmodal.adapters.module_taps import original
from xmodal.adapters.weights import load_into, read_weights
from xmodal.errors import AdapterError
from xmodal.export.layout import MODULE_KEY, read_json, write_json
from xmodal.export.tensors import write_tensors


def write_module(encoder: ModuleEncoder, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write ``model.safetensors``, the module's own state dict, and a ``config.json`` that names its class and taps."""
    config = {
        MODULE_KEY: encoder.module_class,
        "modality": encoder.modalities[0],
        "taps": encoder.places,
        "preprocess": repr(encoder.preprocess),
        "xmodal": dict(notes),
    }
    write_json(folder / "config.json", config)
    write_tensors(original(encoder.model), folder / "model.safetensors")


def read_module(folder: Path, given: Encoder | None) -> ModuleEncoder:
    """``given``, wrapped anew by the user, with the weights in ``folder``: no file can hold his code.

    Raises :class:`~xmodal.errors.AdapterError` that says what to pass, or what is not alike.
    """
    config = read_json(folder / "config.json")
    known, taps = str(config[MODULE_KEY]), dict(config.get("taps") or {})
    name = known.rpartition(".")[2]
    if not isinstance(given, ModuleEncoder):
        how = f"preprocess=…, modality={config.get('modality')!r}, taps={json.dumps(taps)}"
        call = f"xmodal.adapters.wrap_module({name}(…), {how})"
        raise AdapterError(
            f"{folder} holds the weights of {known}, a module of your own, whose code is in no file. Make it and pass "
            f"it: load_student({str(folder)!r}, module={call}); or without xmodal, "
            f"module.load_state_dict(safetensors.torch.load_file({str(folder / 'model.safetensors')!r}))."
        )
    if given.module_class.rpartition(".")[2] != name:
        raise AdapterError(f"{folder} holds the weights of {known}; the module passed is a {given.module_class}.")
    if given.places != taps:
        raise AdapterError(f"{folder} was saved with the taps {taps}; the module passed has {given.places}.")
    load_into(original(given.model), read_weights(folder), str(folder))
    return given
