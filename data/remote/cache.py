"""Whole shards on this machine's disk: fetched once by whoever comes first, checked, and then given their names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from xmodal.data.hashing import file_sha256
from xmodal.data.index import index_path
from xmodal.data.remote import settings
from xmodal.data.remote.address import file_name, join, plain, split
from xmodal.data.remote.eviction import make_room
from xmodal.data.remote.held import Held, hold
from xmodal.errors import DataError, TransferError
from xmodal.files import write_bytes
from xmodal.transfer.addresses import is_offline, is_remote
from xmodal.transfer.download import OtherSizeError, complete, fetch_bytes, readable_size, writing
from xmodal.transfer.streams import AbsentError, ForbiddenError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteShard:
    """A shard elsewhere, with the size and, where it is known, the SHA-256 (else empty) that it must have."""

    address: str
    size: int
    sha256: str = ""

    @property
    def key(self) -> str:
        """The name of its folder in the cache. Other contents are another shard, in a place of their own."""
        digest = hashlib.sha256(f"{self.address}\n{self.size}\n{self.sha256}".encode()).hexdigest()
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", file_name(self.address).removesuffix(".tar"))[:60]
        return f"{digest[:20]}-{readable}"

    @property
    def path(self) -> Path:
        """Where it stands once it was fetched; its index is beside it."""
        return settings.shard_folder() / self.key / file_name(self.address)

    @property
    def part(self) -> Path:
        """The temporary name. It says the size that it will have, so that others leave room for it."""
        return self.path.with_name(f".{self.size}.part")


def fetch(shard: RemoteShard, *, wait: bool = True) -> Held | None:
    """The shard, fetched unless it is there already. It is kept from eviction until its file is closed.

    Several processes may ask for it: one fetches, the others wait. Without ``wait`` nobody waits, and nothing is
    fetched for which there is no room: then None.

    Raises :class:`DataError` with the address, the attempts, the last reason and what to do where it cannot be had, or
    is not the shard that was expected.
    """
    held = hold(shard.path, shard.size)
    if held is not None:
        return held
    if is_offline() and is_remote(shard.address):
        raise DataError(
            f"Offline (XMODAL_OFFLINE), and shard {shard.address} is not in {settings.shard_folder()}. "
            "Unset XMODAL_OFFLINE, or set XMODAL_CACHE to where it is."
        )
    with writing(shard.path.parent):
        settings.shard_folder().mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(shard, wait) as mine:
        if not mine:
            return None
        held = hold(shard.path, shard.size)
        if held is not None:  # whoever had the lock has fetched it
            return held
        with writing(shard.path.parent):
            if not make_room(shard.key, shard.part, shard.size, over=wait):
                return None
        _download(shard)
        held = hold(shard.path, shard.size)
    if held is None:
        raise DataError(f"Shard {shard.path} vanished after it was fetched. Leave the cache folder alone during a run.")
    return held


def index_address(address: str) -> str:
    """``s3://bucket/a.tar`` → ``s3://bucket/a.index.json``."""
    folder, _, query = split(address)
    return join(folder, f"{file_name(address).removesuffix('.tar')}.index.json", query)


def count_of(index: bytes, name: str) -> tuple[int, int] | None:
    """Samples and bytes of the tar that an index of the shard ``name`` is of; None where it is none of it."""
    try:
        found = json.loads(index)
        if found["format"] == "xmodal-index" and found["shard"] == name:
            return len(found["samples"]), int(found["size"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def fetch_index(address: str) -> bytes | None:
    """The index that stands beside a remote shard, None where there is none."""
    try:
        return fetch_bytes(index_address(address), settings.LARGEST_INDEX, settings.PATIENCE)
    except (AbsentError, ForbiddenError):  # a store that may not be listed forbids what is not there
        return None
    except TransferError as error:  # it can be built from the shard
        logger.warning("%s", error)
        return None


@contextlib.contextmanager
def _one_at_a_time(shard: RemoteShard, wait: bool) -> Iterator[bool]:
    lock = FileLock(settings.lock_path(shard.key))
    try:
        lock.acquire(timeout=0.2 if wait else 0)
    except Timeout:
        if not wait:
            yield False
            return
        logger.info("%s: waiting for another process that fetches it", shard.address)
        lock.acquire()
    except OSError as error:
        raise DataError(f"{lock.lock_file} cannot be written: {error.strerror}. Set XMODAL_CACHE.") from error
    try:
        yield True
    finally:
        lock.release()


def _download(shard: RemoteShard) -> None:
    """Bring the shard and its index to their places; the shard comes last, and says that all is there."""
    path, part = shard.path, shard.part
    path.unlink(missing_ok=True)  # what has its name and not its size
    index_path(path).unlink(missing_ok=True)
    if not shard.sha256:  # with no checksum, what another process left could be a part of other contents
        os.truncate(part, 0)
    resumed = part.stat().st_size > 0
    _complete(shard)
    if shard.sha256 and (found := file_sha256(part)) != shard.sha256:
        part.unlink()
        if resumed:  # what was there before may have been wrong: once more from nothing
            _complete(shard)
            found = file_sha256(part)
        if found != shard.sha256:
            part.unlink(missing_ok=True)
            raise DataError(
                f"Shard {shard.address} is not what its manifest.json says: SHA-256 {found}, expected {shard.sha256}. "
                f"It was removed here. {_stale(shard)}"
            )
    index = fetch_index(shard.address)
    with writing(path):
        if index is not None and count_of(index, path.name) is not None:
            write_bytes(index_path(path), index)
        part.replace(path)


def _complete(shard: RemoteShard) -> None:
    try:
        complete(shard.address, shard.part, shard.size, settings.PATIENCE, exact=True)
    except TransferError as error:
        shown = plain(shard.address)
        if isinstance(error.__cause__, OtherSizeError):
            shard.part.unlink(missing_ok=True)
            raise DataError(
                f"Shard {shown} has {error.__cause__.said} bytes there; expected were {shard.size}. {_stale(shard)}"
            ) from error
        if isinstance(error, AbsentError | ForbiddenError):
            raise
        raise TransferError(
            f"{error}\nShard {file_name(shown)} is not in the cache, {settings.shard_folder()}. Check the network and "
            f"the server, and start again: what was fetched is kept. Or copy the shards ({readable_size(shard.size)} "
            "this one) to a disk and give their folder."
        ) from error


def _stale(shard: RemoteShard) -> str:
    return (
        "It changed after it was indexed, or its manifest.json is old: run `xmodal data index` where the shards lie "
        f"and put manifest.json and {file_name(index_address(shard.address))} beside them."
    )
