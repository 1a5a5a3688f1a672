"""An image student as a timm folder: ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodal.adapters.students.image import ImageStudent
from xmodal.adapters.weights import load_into, read_weights
from xmodal.errors import AdapterError
from xmodal.export.layout import read_json, read_notes, write_json
from xmodal.export.tensors import write_tensors

_DATA_KEYS = (
    "input_size",
    "fixed_input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
    "pool_size",
    "first_conv",
    "classifier",
)
"""What the saved ``pretrained_cfg`` says; not where the starting weights came from, for these are other weights."""

_TRAINING_ONLY = ("drop_rate", "drop_path_rate", "drop_block_rate", "num_classes", "pretrained_model_args")


def write_image(encoder: ImageStudent, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors``; ``notes`` go under ``xmodal``."""
    network: Any = encoder.model
    own = network.pretrained_cfg
    arguments = {key: value for key, value in getattr(network, "_model_args", {}).items() if key not in _TRAINING_ONLY}
    if own.get("fixed_input_size"):
        arguments["img_size"] = list(own["input_size"][1:])
    config = {
        "architecture": own["architecture"],
        "num_classes": encoder.num_outputs,
        "num_features": network.num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "custom_load": False,
            **{key: own[key] for key in _DATA_KEYS if key in own},
            "num_classes": encoder.num_outputs,
        },
        "xmodal": dict(notes),
    }
    if not arguments:
        del config["model_args"]
    write_json(folder / "config.json", config)
    write_tensors(network, folder / "model.safetensors")


def read_image(folder: Path) -> ImageStudent:
    """The student in a timm folder."""
    import timm

    config = read_json(folder / "config.json")
    spec = read_notes(folder).get("student", {})
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=False)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder}/config.json is not one that timm can make a network of: {error}") from error
    load_into(network, read_weights(folder), str(folder))
    encoder = ImageStudent(f"image ({config['architecture']})", network, classes=bool(spec.get("num_classes")))
    encoder.spec = spec
    return encoder.lock() if spec.get("locked") else encoder
