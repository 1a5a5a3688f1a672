"""From what a user writes for shards (path, folder, glob, braces, package://, address) to a list of files."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.data.formats.clip_benchmark import read_layout
from xmodal.errors import DataError, hint, nearest

if TYPE_CHECKING:
    from xmodal.data.remote.folder import Folders

Shards = str | Path | Sequence[str | Path]
"""A path, folder, glob or brace pattern, ``package://`` and addresses included; or a list of them."""

_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_EXPANSION = 1_000_000
_PACKAGE = "package://"


def expand(shards: Shards, folders: Folders | None = None) -> list[str]:
    """The shard files that ``shards`` names, as strings; a glob's in order of their names.

    - ``data/train.tar``, or a folder: every ``*.tar`` in it;
    - ``data/train-*.tar`` (``*``, ``?``, ``[…]``, and ``**`` for folders of any depth);
    - ``data/train-{000..012}.tar``, ``{train,extra}.tar``: every one of them must exist;
    - ``package://emoji/train-*.tar``: sample shards that come with xmodal;
    - ``s3://bucket/train-{000..012}.tar``, ``https://…``, ``hf://…``, ``gs://…``: addresses; a folder or a glob is
      answered there by the folder's ``manifest.json``, else by a listing where there is such a thing;
    - a list of any of these.

    ``folders`` keeps what was read of remote folders. Raises :class:`DataError` where a pattern finds nothing, a file
    is named twice, or a remote folder cannot be reached.
    """
    patterns = [shards] if isinstance(shards, str | Path) else list(shards)
    if not patterns:
        raise DataError("No shards were given: an empty list. Give a path, a glob or a brace pattern.")
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in _expand_one(str(pattern), folders):
            if path in found:
                where = f"{found[path]!r} and {str(pattern)!r}" if found[path] != str(pattern) else f"{str(pattern)!r}"
                raise DataError(f"Shard {path} is named twice, by {where}. Name it once.")
            found[path] = str(pattern)
    return list(found)


def expand_local(shards: Shards) -> list[str]:
    """As :func:`expand`, for what works on this machine's files. Raises :class:`DataError` for an address."""
    for pattern in [shards] if isinstance(shards, str | Path) else shards:
        if is_address(str(pattern)):
            raise DataError(
                f"{pattern} is remote, and this works on files: run it where the shards lie, or copy them to a folder."
            )
    return expand(shards)


def is_address(pattern: str) -> bool:
    """Whether ``pattern`` names shards that are not files of this machine, such as ``s3://bucket/train.tar``."""
    return "://" in pattern and not pattern.startswith((_PACKAGE, "file://", "local://"))


def _expand_one(pattern: str, folders: Folders | None) -> list[str]:
    if is_address(pattern):
        from xmodal.data.remote.folder import Folders  # local shards need nothing of it
        from xmodal.data.remote.naming import expand_addresses

        return expand_addresses(pattern, expand_braces(pattern), folders or Folders())
    local = _local(pattern)
    paths: list[str] = []
    for variant in expand_braces(local):
        if Path(variant).is_dir():
            layout = read_layout(variant)
            within = list(layout.shards) if layout else sorted(str(path) for path in Path(variant).glob("*.tar"))
            if not within:
                raise DataError(f"Folder {variant} holds no .tar file. {_neighbours(Path(variant), '*.tar')}")
            paths += within
        elif Path(variant).exists():
            paths.append(variant)
        elif matches := sorted(path for path in glob.glob(variant, recursive=True) if Path(path).is_file()):
            paths += matches
        else:
            raise _nothing_found(pattern, variant)
    for path in paths:
        if not path.endswith(".tar"):
            raise DataError(
                f"{path}, which {pattern!r} names, is not a shard: shards are .tar files. End the pattern in .tar"
            )
    return paths


def _local(pattern: str) -> str:
    """``pattern`` as a path of this machine."""
    if pattern.startswith(_PACKAGE):
        return _in_package(pattern)
    for scheme in ("file://", "local://"):
        if pattern.startswith(scheme):
            return pattern.removeprefix(scheme)
    return str(Path(pattern).expanduser())


def _in_package(pattern: str) -> str:
    samples = Path(str(resources.files("xmodal.data"))) / "samples"
    name, _, rest = pattern.removeprefix(_PACKAGE).partition("/")
    names = sorted(path.name for path in samples.iterdir() if path.is_dir()) if samples.is_dir() else []
    if name not in names:
        raise DataError(f"{pattern!r}: xmodal has no sample shards called {name!r}. {hint(name, names)}")
    if ".." in rest.split("/"):
        raise DataError(f"{pattern!r} leaves the package: '..' has no place in a package:// name.")
    return str(samples / name / rest)


def expand_braces(pattern: str) -> Iterator[str]:
    """Every string that a pattern with ``{000..012}`` and ``{a,b}`` stands for, in order.

    >>> list(expand_braces("{train,test}-{08..10}.tar"))[:4]
    ['train-08.tar', 'train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    alternatives: Iterator[str]
    if limits := _RANGE.match(match[1]):
        first, last = int(limits[1]), int(limits[2])
        if last < first or last - first >= _MAX_EXPANSION:
            raise DataError(
                f"Braces {match[0]} in {pattern!r} must run upwards, over at most {_MAX_EXPANSION} numbers."
            )
        width = len(limits[1]) if limits[1].startswith("0") else 0
        alternatives = (f"{number:0{width}d}" for number in range(first, last + 1))
    elif "," in match[1]:
        alternatives = iter(match[1].split(","))
    else:
        raise DataError(
            f"Braces {match[0]} in {pattern!r} are neither a range such as {{000..012}} nor a list such as {{a,b}}."
        )
    for alternative in alternatives:
        for rest in expand_braces(after):
            yield before + alternative + rest


def _nothing_found(pattern: str, variant: str) -> DataError:
    asked = repr(pattern) if variant == pattern or "{" not in pattern else f"{pattern!r} ({variant})"
    fixed = Path(variant)
    while glob.has_magic(str(fixed)):  # the deepest folder without a wildcard
        fixed = fixed.parent
    folder = fixed if glob.has_magic(variant) else fixed.parent
    if not folder.is_dir():
        return DataError(f"No shard matches {asked}: there is no folder {_absolute(folder)}.")
    return DataError(f"No shard matches {asked}. {_neighbours(folder, Path(variant).name)}")


def _neighbours(folder: Path, wanted: str) -> str:
    names = sorted(path.name for path in folder.iterdir())
    tars = [name for name in names if name.endswith(".tar")]
    close = nearest(wanted.replace("*", ""), tars or names)
    shown = close or tars[:3] or names[:3]
    if not shown:
        return f"Looked in {_absolute(folder)}, which is empty."
    return f"Looked in {_absolute(folder)}, which has {', '.join(shown)}{' …' if len(names) > len(shown) else ''}."


def _absolute(folder: Path) -> Path:
    return folder.resolve() if str(folder) in ("", ".") else folder
