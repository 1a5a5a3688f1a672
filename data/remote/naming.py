"""From an address with braces, wildcards or a folder to the addresses of shards."""

from __future__ import annotations

from collections.abc import Iterable

from xmodal.data.remote.address import refuse_chain, split
from xmodal.data.remote.folder import Folders, listed
from xmodal.errors import DataError
from xmodal.transfer.addresses import is_http


def expand_addresses(pattern: str, variants: Iterable[str], folders: Folders) -> list[str]:
    """The shards that ``pattern`` names, whose braces were expanded to ``variants``.

    A shard that is named in full is taken as it is: no request is made for it. A folder, or wildcards in a name, are
    answered by the folder's manifest, and without one by a listing. Raises :class:`DataError` as :class:`Folders` does.
    """
    refuse_chain(pattern)
    found: list[str] = []
    for variant in variants:
        folder, name, query = split(variant)
        if _has_wildcard(folder, variant, False):
            found += listed(pattern, variant)
        elif _has_wildcard(name, variant, True):
            found += folders.shards(pattern, folder, name, query)
        elif name.endswith(".tar"):
            found.append(variant)
        else:
            inside = f"{folder}/{name}".rstrip("/") if name else folder
            found += folders.shards(pattern, inside, "*.tar", query)
    for address in found:
        if not split(address)[1].endswith(".tar"):
            raise DataError(
                f"{address}, which {pattern!r} names, is not a shard: shards are .tar files. End the pattern in .tar"
            )
    return found


def _has_wildcard(text: str, address: str, in_name: bool) -> bool:
    """In HTTP a question mark begins a query, and brackets stand around a host of IPv6."""
    if is_http(address):
        return any(mark in text for mark in ("*[" if in_name else "*"))
    return any(mark in text for mark in "*?[")
