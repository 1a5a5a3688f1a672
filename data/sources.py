"""What can be packed: a folder of pictures and texts, a folder of class folders, a csv or jsonl table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xmodal.data.audio import AUDIO_EXTENSIONS
from xmodal.data.images import IMAGE_EXTENSIONS
from xmodal.data.tarnames import split_name
from xmodal.errors import DataError, hint

_TEXT_EXTENSIONS = ("txt", "json", "cls")
_ABOUT = ("readme", "license", "licence", "notice", "manifest")  # files about the folder, not texts without a picture


@dataclass
class Item:
    """One sample to be: members are files or bytes; ``origin`` is where it was found, for messages."""

    key: str
    members: dict[str, Path | bytes]
    origin: str
    missing: list[str] = field(default_factory=list)
    """What it lacks that a sample of this source must have."""


@dataclass
class Source:
    """Everything found in a source, in its own order."""

    items: list[Item]
    class_names: list[str] | None = None


def read_source(path: str | Path) -> Source:
    """The samples of a folder or table; no picture is opened.

    Raises :class:`DataError` where there are none, names cannot become keys, or a table's columns are not understood.
    """
    path = Path(path)
    if path.is_dir():
        source = _read_folder(path)
    elif path.suffix.lower() in (".csv", ".jsonl") and path.is_file():
        source = _read_table(path)
    else:
        what = "is neither a folder nor a .csv or .jsonl file" if path.exists() else "does not exist"
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path} {what}. {hint(path.name, siblings) if siblings else ''}".rstrip())
    if not source.items:
        raise DataError(f"{path} holds nothing to pack.")
    _make_keys_unique(source.items)
    return source


def _read_folder(root: Path) -> Source:
    groups: dict[PurePosixPath, dict[str, Path]] = {}  # path without the extension → extension → file
    for file in _files(root):
        relative = PurePosixPath(file.relative_to(root).as_posix())
        extension = relative.suffix.lower().removeprefix(".")
        if extension in groups.setdefault(relative.with_suffix(""), {}):
            raise DataError(
                f"{file} and {groups[relative.with_suffix('')][extension]} differ by case only. Rename one."
            )
        groups[relative.with_suffix("")][extension] = file
    samples = {stem: files for stem, files in groups.items() if _has(files, IMAGE_EXTENSIONS + AUDIO_EXTENSIONS)}
    if not samples:
        kinds = ", ".join((*IMAGE_EXTENSIONS[:4], *AUDIO_EXTENSIONS[:3]))
        raise DataError(f"Folder {root} holds no picture and no sound ({kinds}, …) in {len(groups)} files.")
    if any(_has(files, _TEXT_EXTENSIONS) for files in samples.values()):
        return Source(list(_pairs(root, groups)))
    if all(len(stem.parts) > 1 for stem in samples):
        return _class_folders(root, samples)
    stray = next(stem for stem in samples if len(stem.parts) == 1)
    raise DataError(
        f"Folder {root} has pictures without texts: {stray} has no {stray.name}.txt beside it. Give every picture a "
        "text, or sort the pictures into one folder a class, or list them in a csv with columns image,text."
    )


def _pairs(root: Path, groups: dict[PurePosixPath, dict[str, Path]]) -> Iterator[Item]:
    """``NAME.png`` + ``NAME.txt`` (+ ``NAME.wav`` …), in folders of any depth."""
    for stem, files in groups.items():
        pictures = [extension for extension in files if extension in IMAGE_EXTENSIONS]
        if len(pictures) > 1:
            raise DataError(f"{root / stem} has {len(pictures)} pictures ({', '.join(pictures)}); a sample has one.")
        if not _has(files, IMAGE_EXTENSIONS + AUDIO_EXTENSIONS):
            if not set(files) <= set(_TEXT_EXTENSIONS) or stem.name.lower() in _ABOUT:
                continue
            yield Item(key_of(stem), dict(files), str(root / stem), ["picture"])
        else:
            yield Item(key_of(stem), dict(files), str(root / stem), [] if _has(files, _TEXT_EXTENSIONS) else ["text"])


def _class_folders(root: Path, samples: dict[PurePosixPath, dict[str, Path]]) -> Source:
    """``CLASS/NAME.png``: the label is the class's place in the alphabet, the text its name."""
    class_names = sorted({stem.parts[0] for stem in samples})
    items = []
    for stem, files in samples.items():
        name = stem.parts[0]
        for extension, file in files.items():
            if extension not in IMAGE_EXTENSIONS:
                raise DataError(f"{file} is no picture; class folders hold pictures only.")
            # one picture a sample: NAME.png and NAME.jpg are two
            members: dict[str, Path | bytes] = {
                extension: file,
                "txt": name.replace("_", " ").encode(),
                "cls": str(class_names.index(name)).encode(),
            }
            items.append(Item(key_of(stem), members, str(file)))
    return Source(items, class_names)


def _files(root: Path) -> Iterator[Path]:
    """Files under ``root`` in order of their names; hidden ones left out, links followed inside ``root`` only."""
    inside = root.resolve()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders + sorted(names):
            path = Path(folder) / name
            if path.is_symlink() and not name.startswith("."):
                target = path.resolve()
                if not target.exists():
                    raise DataError(f"{path} is a link to {target}, which does not exist.")
                if target.is_dir() or not target.is_relative_to(inside):
                    where = "a folder" if target.is_dir() else f"a file outside {root}"
                    raise DataError(
                        f"{path} is a link to {where} ({target}); copy the files in, or list them in a csv."
                    )
            if path.is_file() and not name.startswith("."):
                yield path


def _read_table(path: Path) -> Source:
    """Columns image, text, audio, label, and key if there is one; every other column goes into a ``json`` member."""
    rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path))
    columns = {name for _, row in rows for name, value in row.items() if _given(value)}
    if not columns & {"image", "audio"}:
        raise DataError(
            f"{path} has no column image or audio; it has {', '.join(sorted(columns)) or 'none'}. {_COLUMNS}"
        )
    if not columns & {"text", "label"} and columns <= {"image", "audio", "key"}:
        raise DataError(f"{path} says nothing about its pictures: no column text or label. {_COLUMNS}")
    labels = [row["label"] for _, row in rows if _given(row.get("label"))]
    class_names = None if all(_is_int(label) for label in labels) else sorted({str(label) for label in labels})
    items = [_table_item(path, line, row, columns, class_names) for line, row in rows]
    return Source(items, class_names)


_COLUMNS = "Columns are image, text, audio and label; others are kept as JSON."


def _table_item(path: Path, line: int, row: dict[str, Any], columns: set[str], class_names: list[str] | None) -> Item:
    origin = f"{path}:{line}"
    members: dict[str, Path | bytes] = {}
    value: Any
    for column in ("image", "audio"):
        if value := row.get(column):
            file = path.parent / str(value)
            extension = file.suffix.lower().removeprefix(".")
            allowed = IMAGE_EXTENSIONS if column == "image" else AUDIO_EXTENSIONS
            if extension not in allowed:
                raise DataError(f"{origin}: {column} {str(value)!r} does not end in one of .{', .'.join(allowed)}")
            members[extension] = file
    if _given(value := row.get("text")):
        if not isinstance(value, str):
            raise DataError(
                f"{origin}: text is {type(value).__name__}; a list belongs in a column of another name, json.NAME"
            )
        members["txt"] = value.encode()
    if _given(value := row.get("label")):
        members["cls"] = str(int(value) if class_names is None else class_names.index(str(value))).encode()
    extra = {name: value for name, value in row.items() if name not in ("image", "text", "audio", "label", "key")}
    if extra:
        members["json"] = json.dumps(extra, ensure_ascii=False).encode()
    required = columns & {"image", "text", "audio", "label"}
    missing = sorted(name for name in required if not _given(row.get(name)))
    name = row.get("key") or row.get("image") or row.get("audio") or f"line-{line}"
    stem = PurePosixPath(str(name)) if row.get("key") else PurePosixPath(str(name)).with_suffix("")
    return Item(key_of(stem), members, origin, missing)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    columns = ", ".join(reader.fieldnames or ())
                    raise DataError(
                        f"{path}:{reader.line_num}: the row has more or fewer values than columns ({columns})."
                    )
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as csv in UTF-8: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}:{number} is {type(row).__name__}, not an object such as {{"image": …, "text": …}}')
        yield number, row


def _is_int(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.strip().isdecimal())


def _given(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None


def _has(files: dict[str, Path], extensions: tuple[str, ...]) -> bool:
    return any(extension in files for extension in extensions)


def key_of(stem: PurePosixPath) -> str:
    """A path without its extension as a key: no way up, no root, and no dot in the last part, where a key would end.

    >>> key_of(PurePosixPath("../birds/owl.v2"))
    'birds/owl_v2'
    """
    parts = [part for part in stem.parts if part not in ("..", "/", ".")] or ["sample"]
    return "/".join([*parts[:-1], parts[-1].replace(".", "_")])


def _make_keys_unique(items: list[Item]) -> None:
    """Equal keys get ``-2``, ``-3`` …: a picture may stand in several rows of a table."""
    taken: set[str] = set()
    for item in items:
        name = split_name(f"{item.key}.png")
        if name is None or name.problem:
            raise DataError(f"{item.origin}: {item.key!r} cannot be a key {name.problem if name else ''}. Rename it.")
        key, count = item.key, 1
        while key in taken:
            count += 1
            key = f"{item.key}-{count}"
        taken.add(key)
        item.key = key
