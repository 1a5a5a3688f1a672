"""What a run ran on: versions, device, command. Written to ``env.json``."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

import xmodal
from xmodal.train.distributed import World

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "webdataset", "numpy", "pillow")


def describe_environment(world: World) -> dict[str, Any]:
    """Versions and hardware; no paths, host or user names, since runs are shared."""
    versions = {"xmodal": xmodal.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
    return {
        "versions": versions,
        "device": device,
        "world_size": world.size,
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "command": ["xmodal" if index == 0 else part for index, part in enumerate(sys.argv)],
    }
