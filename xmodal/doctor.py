"""What this machine has and lacks: versions, devices, caches, limits; and whether a recipe would run here."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from xmodal.errors import RecipeError, XmodalError, first_line

GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``note``: works, but is worth knowing; ``problem``: something will not work."""

    subject: str
    state: Literal["ok", "note", "problem"]
    detail: str
    mend: str = ""


def examine(recipe: str | Path | None = None, overrides: Sequence[str] = ()) -> Iterator[Finding]:
    """Everything about this machine that keeps xmodal from working, or slows it down, and how to mend it.

    With a ``recipe``: its mistakes, and if it has none, one batch through its teacher, student and objective.
    """
    yield _python()
    yield from _packages()
    yield from _imports()
    yield from _devices()
    yield from _weights()
    yield from _hub()
    yield _zoo_cache()
    yield from _limits()
    if recipe is not None:
        yield from _recipe(recipe, overrides)


def _python() -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < (3, 10):  # noqa: UP036  what pip would have refused, a clone does not
        return Finding("python", "problem", detail, "xmodal needs Python 3.10 or newer")
    return Finding("python", "ok", detail)


def _packages() -> Iterator[Finding]:
    """Every dependency is there, and as new as it must be."""
    try:
        wanted = metadata.requires("xmodal") or []
        yield Finding("xmodal", "ok", metadata.version("xmodal"))
    except metadata.PackageNotFoundError:
        yield Finding("xmodal", "note", "imported from a clone, not installed", "pip install -e .")
        return
    for requirement in wanted:
        match = re.match(r"^([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)$", requirement)
        if match is None:  # an extra's
            continue
        name, least = match.groups()
        try:
            have = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "problem", "is not installed", f"pip install '{requirement}'")
            continue
        if _numbers(have) < _numbers(least):
            yield Finding(name, "problem", f"{have} is older than {least}", f"pip install -U '{requirement}'")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing.

    >>> _numbers("2.14.1+cu130") > _numbers("2.6")
    True
    """
    return tuple(int(part) for part in re.split(r"[^0-9.]", version)[0].strip(".").split(".") if part)


def _imports() -> Iterator[Finding]:
    """Compiled packages fit one another: torch, torchvision and torchaudio of different builds break on import."""
    versions = []
    for name in ("torch", "torchvision", "torchaudio", "timm", "transformers", "open_clip"):
        version, problem = _import(name)
        if problem:
            together = "pip install --force-reinstall torch torchvision torchaudio"
            mend = together if name.startswith("torch") else f"pip install -U {name}"
            yield Finding(name, "problem", f"does not import: {problem}", mend)
        else:
            versions.append(f"{name} {version}")
    yield Finding("libraries", "ok", ", ".join(versions))


def _import(name: str) -> tuple[str, str]:
    """Version, and why it does not import."""
    try:
        return str(getattr(importlib.import_module(name), "__version__", "?")), ""
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return "", first_line(error)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield Finding(f"cuda:{number}", "ok", f"{card.name}, {card.total_memory / GIB:.0f} GiB")
    if torch.cuda.is_available():
        return
    if torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps")
        return
    yield Finding("device", "ok", f"cpu, {torch.get_num_threads()} threads")
    if torch.version.cuda and shutil.which("nvidia-smi"):
        yield Finding(
            "cuda", "note", "nvidia-smi is here, but torch sees no GPU", "compare the driver with torch.version.cuda"
        )


def _weights() -> Iterator[Finding]:
    """Packages that carry weights for use without a hub."""
    from xmodal.adapters.packages import PACKAGES

    for package in {package.distribution: package for package in PACKAGES.values()}.values():
        try:
            found = package.find()
        except XmodalError as error:
            yield Finding(package.distribution, "problem", str(error))
            continue
        if found is None:
            yield Finding(
                package.distribution, "note", "not installed; its weights would come from the hub", package.pip
            )
        else:
            yield Finding(package.distribution, "ok", "weights are here, and are the official ones")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    offline = ", offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    yield _folder("hub cache", Path(constants.HF_HUB_CACHE), "HF_HOME", offline)


def _zoo_cache() -> Finding:
    from xmodal.transfer.addresses import cache_folder, is_offline

    return _folder(
        "zoo cache", cache_folder(), "XMODAL_CACHE", ", offline (XMODAL_OFFLINE)" if is_offline(None) else ""
    )


def _folder(subject: str, folder: Path, variable: str, also: str) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Finding(
            subject, "problem", f"{folder} cannot be written: {error.strerror}", f"set {variable} to another folder"
        )
    state: Literal["ok", "note"] = "ok" if free > 2 * GIB else "note"
    return Finding(
        subject,
        state,
        f"{folder}, {free / GIB:.1f} GiB free{also}",
        "" if state == "ok" else f"set {variable} to another disk",
    )


def _limits() -> Iterator[Finding]:
    """Limits that stop loader workers on big machines and in containers."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        yield Finding("open files", "note", f"at most {soft}; many shards and workers need more", "ulimit -n 4096")
    shared = Path("/dev/shm")
    if shared.is_dir() and (total := shutil.disk_usage(shared).total) < GIB:
        mend = "docker run --shm-size=2g, or data.num_workers=0"
        yield Finding(
            "shared memory",
            "note",
            f"/dev/shm has {total / 2**20:.0f} MiB; loader workers pass batches through it",
            mend,
        )


def _recipe(recipe: str | Path, overrides: Sequence[str]) -> Iterator[Finding]:
    from xmodal.recipes import check, load_recipe

    try:
        loaded = load_recipe(recipe, overrides)
        mistakes = check(loaded)
        if mistakes:
            raise RecipeError(mistakes, f"recipe {recipe}")
        yield Finding("recipe", "ok", f"{recipe} has no mistakes")
        _try_one_batch(recipe, overrides)
    except XmodalError as error:
        yield Finding("recipe", "problem", str(error))
    else:
        yield Finding("dry run", "ok", "one batch went through teacher, student and objective")


def _try_one_batch(recipe: str | Path, overrides: Sequence[str]) -> None:
    from rich.console import Console

    from xmodal.distillation import dry_run

    dry_run(recipe, overrides, Console(quiet=True))
