"""Weights stored as float16: half the bytes to download, loaded as float32 again by every library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xmodal.errors import ZooError

LARGEST_HALF = 65504.0


def store_half(folder: Path) -> list[str]:
    """Rewrite every safetensors file below ``folder`` with its matrices in float16; the files that changed.

    Vectors (biases, the scales and running statistics of normalisation) stay in float32: they are few, and a small
    variance would become zero. So does a tensor with a value that float16 does not hold. The configs are told with
    ``weights: float16`` beside xmodal's other metadata; where transformers would compute in the stored type, they name
    float32. Raises :class:`ZooError` for a weight that is not finite.
    """
    changed = [
        path for path in sorted(folder.rglob("*.safetensors")) if _convert(path, path.relative_to(folder).as_posix())
    ]
    if changed:
        for config in sorted(folder.rglob("config.json")):
            _say(config)
        _say(folder / "xmodal.json")
    return [path.relative_to(folder).as_posix() for path in changed]


def _convert(path: Path, shown: str) -> bool:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    changed = False
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise ZooError(
                f"{shown} holds values that are not finite, in {name}: this student is broken; nothing was published."
            )
        if tensor.dtype == torch.float32 and tensor.ndim > 1 and bool((tensor.abs() <= LARGEST_HALF).all()):
            tensors[name] = tensor.half()
            changed = True
    if changed:
        save_file(tensors, path, metadata=metadata)
    return changed


def _say(path: Path) -> None:
    if not path.is_file():
        return
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("xmodal"), dict):
        config["xmodal"]["weights"] = "float16"
    elif path.name == "xmodal.json":
        config["weights"] = "float16"
    if "model_type" in config:  # transformers': without the key it would take the type of the first weight
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
