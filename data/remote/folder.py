"""What stands in remote folders: manifests, each read once, and listings where the file system can give one."""

from __future__ import annotations

import contextlib
import logging
from fnmatch import fnmatchcase

from xmodal.data.manifest import MANIFEST_NAME, Manifest, parse_manifest
from xmodal.data.remote import settings
from xmodal.data.remote.address import join
from xmodal.errors import DataError
from xmodal.transfer.addresses import is_http, protocol_of
from xmodal.transfer.download import fetch_bytes, patience_for
from xmodal.transfer.patience import keep_trying
from xmodal.transfer.streams import AbsentError, ForbiddenError, accessing, file_system_of
from xmodal.transfer.watched import Watched

logger = logging.getLogger(__name__)
_LISTING_SECONDS = 120.0  # of 100 000 names; a store gives a thousand a request


class Folders:
    """Remote folders, for as long as some shards are being opened."""

    def __init__(self) -> None:
        self._manifests: dict[tuple[str, str], Manifest | None] = {}

    def manifest(self, folder: str, query: str = "") -> Manifest | None:
        """A folder's manifest, None where it has none. Raises :class:`DataError` where it is broken or unreachable."""
        if (folder, query) not in self._manifests:
            self._manifests[folder, query] = _manifest(join(folder, MANIFEST_NAME, query))
        return self._manifests[folder, query]

    def shards(self, pattern: str, folder: str, wanted: str, query: str = "") -> list[str]:
        """Addresses of a folder's shards whose names match ``wanted``, by name: from its manifest, else a listing.

        Raises :class:`DataError` where there is neither, or no match; ``pattern`` is what the user wrote.
        """
        manifest = self.manifest(folder, query)
        if manifest is None:
            return listed(pattern, f"{folder}/{wanted}")
        names = sorted(entry.name for entry in manifest.shards)
        found = [name for name in names if fnmatchcase(name, wanted)]
        if not found:
            some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise DataError(
                f"No shard matches {pattern!r}: {join(folder, MANIFEST_NAME, query)} lists {some or 'no shard'}."
            )
        return [join(folder, name, query) for name in found]


def listed(pattern: str, wanted: str) -> list[str]:
    """Addresses that match the glob ``wanted``, by name. Raises :class:`DataError` where nothing can or does match."""
    if is_http(wanted):
        folder = wanted.rpartition("/")[0]
        raise DataError(
            f"{pattern!r} cannot be listed: {protocol_of(wanted)} has no listings, and there is no "
            f"{join(folder, MANIFEST_NAME)}. Run `xmodal data index` where the shards lie and put manifest.json beside "
            "them, or name each shard: train-{000..012}.tar"
        )
    base = wanted[: _first_wildcard(wanted)].rpartition("/")[0]
    file_system, path = file_system_of(wanted)
    base_path = file_system._strip_protocol(base).rstrip("/")

    def once() -> list[str]:
        # a thread for each attempt: where one hangs, the next must not wait behind it
        with contextlib.closing(Watched(_LISTING_SECONDS)) as watched, accessing(base, "listed"):
            return sorted(str(name) for name in watched(file_system.glob, path))

    names = keep_trying(once, patience_for(wanted, settings.PATIENCE), f"{base} could not be listed")
    # a file system's paths lack what it has taken from the address, such as a host: they go behind the base instead
    found = [base + name[len(base_path) :] for name in names if name.startswith(f"{base_path}/")]
    if not found:
        raise DataError(f"No shard matches {pattern!r}: looked in {base}. Check the address.")
    return found


def _manifest(address: str) -> Manifest | None:
    try:
        return parse_manifest(fetch_bytes(address, settings.LARGEST_MANIFEST, settings.PATIENCE), address)
    except AbsentError:
        return None
    except ForbiddenError as error:  # a store that may not be listed says so of what is not there
        logger.warning("%s; going on without it.", str(error).rstrip("."))
        return None


def _first_wildcard(text: str) -> int:
    return min((place for place in map(text.find, "*?[") if place >= 0), default=len(text))
