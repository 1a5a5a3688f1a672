"""Pack pictures and texts into shards, with index and manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from xmodal.data.audio import AUDIO_EXTENSIONS, opened_audio
from xmodal.data.hashing import stable_hash
from xmodal.data.images import IMAGE_EXTENSIONS, opened_image
from xmodal.data.manifest import MANIFEST_NAME, Manifest, write_manifest
from xmodal.data.members import MemberError
from xmodal.data.sources import Item, read_source
from xmodal.data.writer import ShardWriter
from xmodal.errors import DataError

logger = logging.getLogger(__name__)
_SHOWN = 5


def pack(
    source: str | Path,
    out: str | Path,
    *,
    shard_size: int = 10_000,
    pattern: str = "shard-{:06d}.tar",
    seed: int | None = 0,
    incomplete: Literal["refuse", "skip"] = "refuse",
    description: str = "",
    licence: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Pack ``source`` into shards of ``shard_size`` samples in the folder ``out``; returns the manifest written there.

    ``source`` is a folder of ``NAME.png`` + ``NAME.txt`` (+ ``NAME.json``, ``NAME.wav`` …), a folder with one folder a
    class, or a csv or jsonl file with columns image, text, audio, label (paths relative to the file). Files are stored
    as they are. Samples are shuffled by ``seed``, so that neighbours have nothing in common; None keeps their order.
    Equal sources give equal bytes. ``progress`` is called with samples done and samples in all.

    Raises :class:`DataError`, and leaves no file behind, where ``out`` is not empty, the source is not understood, or
    samples lack a partner or have a picture or sound that cannot be opened; ``incomplete="skip"`` leaves such samples
    out.
    """
    out = Path(out)
    found = read_source(source)
    _refuse_used(out)
    items = found.items
    if seed is not None:
        items = sorted(items, key=lambda item: stable_hash(seed, item.key))
    problems: list[str] = []
    created = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ShardWriter(out, pattern=pattern, shard_size=shard_size) as writer:
            for done, item in enumerate(items, start=1):
                members = _load(item, problems)
                if members and (not problems or incomplete == "skip"):
                    writer.add(item.key, members)
                if progress is not None:
                    progress(done, len(items))
            if problems and incomplete == "refuse":
                raise DataError(_refusal(source, problems, len(items)))
            if len(problems) == len(items):
                raise DataError(f"No sample of {source} can be packed. {problems[0]}")
        manifest = Manifest(
            description=description,
            licence=licence,
            class_names=None if found.class_names is None else tuple(found.class_names),
            shards=tuple(writer.entries),
        )
        write_manifest(manifest, out)
    except BaseException:
        if created and not any(out.iterdir()):
            out.rmdir()
        raise
    if problems:
        logger.warning("%d of %d samples left out: %s", len(problems), len(items), "; ".join(problems[:_SHOWN]))
    return manifest


def _load(item: Item, problems: list[str]) -> dict[str, bytes]:
    """The item's bytes; nothing, and a line in ``problems``, where it is no whole sample."""
    try:
        if item.missing:
            raise MemberError(f"has no {' and no '.join(item.missing)}")
        members = {}
        for extension, content in item.members.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            if not data:
                raise MemberError(f".{extension} is empty (0 bytes)")
            if extension in IMAGE_EXTENSIONS:
                with opened_image(data):
                    pass  # its header is that of a picture of reasonable size
            elif extension in AUDIO_EXTENSIONS:
                with opened_audio(data):
                    pass  # likewise of a sound
            members[extension] = data
        return members
    except FileNotFoundError as error:
        problems.append(f"{item.origin}: there is no file {error.filename}")
    except OSError as error:
        problems.append(f"{item.origin}: {error.filename} cannot be read: {error.strerror}")
    except MemberError as error:
        problems.append(f"{item.origin}: {error}")
    return {}


def _refuse_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; shards are written into a folder. Give another --out.")
    if out.exists() and any(out.iterdir()):
        unfinished = not (out / MANIFEST_NAME).exists() and any(out.glob("*.tar*"))
        what = "holds a packing that was interrupted" if unfinished else "is not empty"
        raise DataError(f"Folder {out} {what}. Empty it, or give another --out.")


def _refusal(source: str | Path, problems: list[str], count: int) -> str:
    lines = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN} more")
    head = f"{len(problems)} of {count} samples of {source} are not whole; nothing was packed."
    return "\n".join([head, *lines, 'Mend them, or leave them out: --incomplete skip (in Python incomplete="skip").'])
