"""From a model's name to a folder of its files: a folder, an installed package, or the hub and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmodal.adapters.packages import PACKAGES, file_sha256
from xmodal.errors import AdapterError, first_line

_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_SAFE_WEIGHTS = ("*.safetensors",)
_OLD_WEIGHTS = ("pytorch_model*.bin", "*/pytorch_model.bin")
_OTHER_FORMATS = ("onnx/*", "openvino/*", "*.onnx")


@dataclass(frozen=True)
class Source:
    """Where a model's files lie. ``identity`` pins their content: a hub commit, or hashes of the weight files."""

    folder: Path
    origin: str
    identity: str


def fetch(model: str, revision: str | None = None, *, weights: bool = True) -> Source:
    """The folder of a transformers model.

    ``model`` is a folder, or a hub name. A hub name is looked for among the installed packages first (where no
    ``revision`` is asked for), then on the hub, whose cache serves it offline; the revision is resolved to a commit.
    Without ``weights`` only configuration and tokenizer are fetched.

    Raises :class:`~xmodal.errors.AdapterError` that says what was looked in, and what to run.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise AdapterError(f"{model!r} is a folder, which has no revisions: leave revision={revision!r} out.")
        return Source(folder, str(folder), _hash_weights(folder) if weights else "")
    if problem := folder_problem(model):
        raise AdapterError(problem)
    package = PACKAGES.get(model)
    if package is not None and revision is None and (found := package.find(check=weights)) is not None:
        return Source(found, f"package {package.distribution}", "-".join(package.sha256.values()))
    return _from_hub(model, revision, weights)


def folder_problem(model: str) -> str | None:
    """What is wrong with a ``model`` that can only be a folder's path and is none; None where nothing is."""
    folder = Path(model).expanduser()
    if folder.is_dir() or not (folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1):
        return None
    return f"There is no folder {model!r}. Give a folder with config.json, or a name on the hub."


def _from_hub(model: str, revision: str | None, weights: bool) -> Source:
    folder = _download(model, revision, (*_SMALL_FILES, *(_SAFE_WEIGHTS if weights else ())))
    if weights and not list(folder.glob("*.safetensors")):
        folder = _download(model, revision, (*_SMALL_FILES, *_OLD_WEIGHTS))
    return Source(folder, f"hub {model}", folder.name)  # the cache calls a snapshot's folder by its commit


def _download(model: str, revision: str | None, patterns: Sequence[str]) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_OTHER_FORMATS)
            )
        )
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        raise AdapterError(cannot_fetch(model, revision, error)) from error


def cannot_fetch(model: str, revision: str | None, error: Exception) -> str:
    """What to tell a user whose model is neither here nor to be had: where it was looked for, what to run."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    at = f" at revision {revision}" if revision else ""
    offline = " HF_HUB_OFFLINE is set, so the hub was not asked." if constants.HF_HUB_OFFLINE else ""
    reason = "" if offline else f" The hub said: {first_line(error)}"
    lines = [f"{model!r}{at} is not to be had. Looked in the hub's cache {constants.HF_HUB_CACHE}.{offline}{reason}"]
    if isinstance(error, GatedRepoError):
        lines.append(f"It is gated: accept its terms on https://huggingface.co/{model}, then run: hf auth login")
    package = PACKAGES.get(model)
    if package is not None and revision is None:
        lines.append(f"Its weights are in a package too: {package.pip}")
    lines.append(
        f"With a network: hf download {model}{f' --revision {revision}' if revision else ''}; "
        "or give the path of a folder that holds it."
    )
    return "\n".join(lines)


def _hash_weights(folder: Path) -> str:
    patterns = ("config.json", "*.safetensors", "*.bin", "*/*.safetensors", "*/*.bin")
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return "-".join(file_sha256(path) for path in files)
