"""Where an open_clip model's architecture and weights lie: open_clip's own lists, the hub, a folder, a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xmodal.adapters.packages import file_sha256
from xmodal.errors import AdapterError, hint

HUB, FOLDER = "hf-hub:", "local-dir:"
CONFIG = "open_clip_config.json"
_PARTS = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True)
class Weights:
    """A weight ``file``, asked for by the tag or path ``given``; ``of_source``: repository or folder holds it."""

    file: Path
    given: str | None
    of_source: bool

    def identity(self) -> str:
        """A commit of the hub's and the file's name in it, or the file's hash."""
        snapshot = self.file.parent
        if snapshot.parent.name == "snapshots":  # the cache calls a snapshot's folder by its commit
            return f"{snapshot.name}/{self.file.name}"
        return file_sha256(self.file)


def get_open_clip() -> Any:
    """The library; an :class:`~xmodal.errors.AdapterError` with the pip command where it is missing."""
    try:
        import open_clip
    except ImportError as error:
        raise AdapterError(f"open_clip is not installed ({error}). Run: pip install open_clip_torch") from error
    return open_clip


def open_clip_name_problem(model: str) -> str | None:
    """What is wrong with a name of open_clip's, nearest ones included; None where nothing is."""
    if model.startswith(FOLDER):
        folder = model.removeprefix(FOLDER)
        if folder and Path(folder).is_dir():
            return None
        return f"There is no folder {folder!r}. {FOLDER}FOLDER is one with {CONFIG} and weights."
    known = get_open_clip().list_models()
    if model.startswith(HUB) or model.replace("/", "-") in known:
        return None
    also = f"; or {FOLDER}{model}" if Path(model).expanduser().is_dir() else ""
    return f"{model!r} is not an open_clip model. {hint(model, known)}{also}"


def architecture(model: str) -> dict[str, Any]:
    """``embed_dim``, ``vision_cfg``, ``text_cfg`` and the like of a model."""
    problem = open_clip_name_problem(model)
    if problem:
        raise AdapterError(problem)
    if model.startswith(FOLDER):
        return _read_config(Path(model.removeprefix(FOLDER)) / CONFIG)
    if model.startswith(HUB):
        return _read_config(_from_hub(model.removeprefix(HUB), CONFIG))
    return dict(get_open_clip().get_model_config(model.replace("/", "-")))


def find_weights(model: str, config: dict[str, Any], pretrained: bool | str | Path) -> Weights | None:
    """The weights asked for, fetched where they must be; None for random ones."""
    if pretrained is False:
        return None
    chosen = choose_weights(model, pretrained)
    if chosen is None:
        return Weights(_in_folder(model) if model.startswith(FOLDER) else _from_hub(model[len(HUB) :]), None, True)
    tag = get_open_clip().get_pretrained_cfg(model, chosen)
    if tag:
        _check_activation(model, config, chosen, tag)
        return Weights(_download(model, chosen, tag), chosen, False)
    return Weights(Path(chosen), chosen, False)


def choose_weights(model: str, pretrained: Literal[True] | str | Path) -> str | None:
    """The tag, or the path of the file, that is meant by ``pretrained``; None for what repository or folder holds.

    Nothing is fetched or read. Raises :class:`~xmodal.errors.AdapterError` for what is neither, and where several tags
    might be meant.
    """
    if model.startswith((HUB, FOLDER)):
        if pretrained is not True:
            raise AdapterError(
                f"{model!r} has weights of its own, and open_clip would ignore pretrained={str(pretrained)!r}. Leave "
                "it out, or say pretrained=False for random ones."
            )
        return None
    tags = list(get_open_clip().list_pretrained_tags_by_model(model))
    if pretrained is True:
        if len(tags) != 1:
            raise AdapterError(f"Say which weights of {model} are meant: pretrained=TAG. {_tags(model, tags)}")
        return str(tags[0])
    if get_open_clip().get_pretrained_cfg(model, str(pretrained)):
        return str(pretrained)
    file = Path(str(pretrained)).expanduser()
    if not file.is_file():
        near = f"{hint(str(pretrained), tags)}. " if tags else ""
        raise AdapterError(
            f"{str(pretrained)!r} is neither a tag of {model}'s weights nor a weight file. {near}{_tags(model, tags)}"
        )
    return str(file)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what open_clip tells the root logger, which would set up logging for the whole process by that."""
    root, nobody = logging.getLogger(), logging.NullHandler()

    def silent(record: logging.LogRecord) -> bool:
        return False

    root.addHandler(nobody)
    root.addFilter(silent)
    try:
        yield
    finally:
        root.removeFilter(silent)
        root.removeHandler(nobody)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tags(model: str, tags: list[str]) -> str:
    if not tags:
        return f"open_clip has no weights for {model}: give the path of a weight file, or False for random ones."
    return f"open_clip has weights for {model} by {'these tags' if len(tags) > 1 else 'the tag'}: {', '.join(tags)}"


def _check_activation(model: str, config: dict[str, Any], pretrained: str, tag: dict[str, Any]) -> None:
    """Refuse a model whose activations are not those that the weights were trained with; open_clip only warns."""
    other = f"{model}-quickgelu"
    is_wrong = tag.get("quick_gelu", False) and not config.get("quick_gelu", False)
    if is_wrong and get_open_clip().get_pretrained_cfg(other, pretrained):
        raise AdapterError(
            f"The weights {pretrained!r} were trained with QuickGELU: {model} would turn out wrong features from them. "
            f"The model is {other!r}."
        )


def _download(model: str, pretrained: str, tag: dict[str, Any]) -> Path:
    if tag.get("hf_hub"):
        repository, _, file = str(tag["hf_hub"]).rpartition("/")
        return _from_hub(repository, file or None, f"The weights {pretrained!r} of {model} cannot be had. ")
    try:
        return Path(get_open_clip().download_pretrained(tag))
    except (OSError, RuntimeError) as error:
        url = tag.get("url")
        raise AdapterError(
            f"The weights {pretrained!r} of {model} cannot be had: {error}. Looked in ~/.cache/clip. With a network: "
            f"curl -L -o {str(url).rsplit('/', 1)[-1]} {url}; then give the path of that file as pretrained."
        ) from error


def _from_hub(repository: str, file: str | None = None, why: str = "") -> Path:
    """A file of a repository, its weights where none is named, from the hub's cache or the hub."""
    from huggingface_hub.errors import GatedRepoError

    from xmodal.adapters.hub import cannot_fetch

    try:
        return Path(get_open_clip().pretrained.download_pretrained_from_hf(repository, filename=file))
    except (OSError, ValueError, RuntimeError) as error:
        gated = next((part for part in chain(error) if isinstance(part, GatedRepoError)), error)
        assert isinstance(gated, Exception)
        raise AdapterError(f"{why}{cannot_fetch(repository, None, gated)}") from error


def _in_folder(model: str) -> Path:
    from open_clip.factory import _find_checkpoint_in_dir

    folder = Path(model.removeprefix(FOLDER))
    with quiet():
        found = _find_checkpoint_in_dir(folder)
    if not found:
        raise AdapterError(
            f"{folder} holds no weights: no .safetensors, .bin or .pth file. Put open_clip_model.safetensors there, or "
            "say pretrained=False for random ones."
        )
    return Path(found)


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise AdapterError(f"{file.parent} holds no {CONFIG}: it is not a folder that open_clip saved.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{file} is no JSON: {error}. Fetch or save it again.") from error
    made = config.get("model_cfg") if isinstance(config, dict) else None
    missing = [part for part in _PARTS if not isinstance(made, dict) or part not in made]
    if not isinstance(made, dict) or missing:
        raise AdapterError(f"{file} says of no model how it is built: model_cfg has no {', '.join(missing)}.")
    return made
