"""How many samples remote shards hold, and their sizes: from manifests, which costs one request a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from xmodal.data.index import build_index
from xmodal.data.remote import settings
from xmodal.data.remote.address import file_name, plain, split
from xmodal.data.remote.cache import RemoteShard, count_of, fetch, fetch_index
from xmodal.data.remote.folder import Folders
from xmodal.errors import DataError
from xmodal.transfer.download import patience_for
from xmodal.transfer.patience import keep_trying
from xmodal.transfer.streams import open_stream

logger = logging.getLogger(__name__)
MOST_UNCOUNTED = 64


def measure(addresses: Sequence[str], folders: Folders) -> list[tuple[int, int, str]]:
    """Samples, bytes and SHA-256 (empty where unknown) of each shard.

    A shard that no manifest lists costs requests of its own: for its index, and where it has none for all of it.
    Raises :class:`DataError` where more than 64 are such, or one cannot be had.
    """
    found: dict[str, tuple[int, int, str]] = {}
    unknown = []
    for address in addresses:
        folder, _, query = split(address)
        manifest = folders.manifest(folder, query)
        entry = manifest.entry(file_name(address)) if manifest else None
        if entry is None:
            unknown.append(address)
        else:
            found[address] = (entry.samples, entry.size, entry.sha256 or "")
    if len(unknown) > MOST_UNCOUNTED:
        where = split(unknown[0])[0]
        raise DataError(
            f"{len(unknown)} remote shards, {plain(unknown[0])} the first, are in no manifest.json: each would have to "
            f"be fetched to be counted, which is done for {MOST_UNCOUNTED} at most. Run `xmodal data index` where the "
            f"shards lie, and put the manifest.json it writes (and the *.index.json) beside them, into {where}."
        )
    if unknown:
        logger.warning(
            "%d remote shards, %s the first, are in no manifest.json: each is asked for to be counted. "
            "`xmodal data index` writes one.",
            len(unknown),
            plain(unknown[0]),
        )
    for address in unknown:
        found[address] = (*_counted(address), "")
    return [found[address] for address in addresses]


def _counted(address: str) -> tuple[int, int]:
    index = fetch_index(address)
    if index is not None and (counted := count_of(index, file_name(address))) is not None:
        return counted
    size = keep_trying(
        lambda: _size(address), patience_for(address, settings.PATIENCE), f"Shard {plain(address)} could not be read"
    )
    if size is None:
        raise DataError(
            f"Shard {plain(address)} is in no manifest.json, and its server does not say how large it is. "
            "Run `xmodal data index` where it lies and put manifest.json beside it."
        )
    held = fetch(RemoteShard(address, size))
    assert held is not None
    with held.file:
        return len(build_index(held.path)), size


def _size(address: str) -> int | None:
    with open_stream(address, 0, settings.PATIENCE.timeout) as stream:
        return stream.total
