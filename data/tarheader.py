"""Whether a block of a tar file is still the header of the member that an index says is there."""

from __future__ import annotations

import tarfile

from xmodal.data.tarnames import split_name


def header_problem(block: bytes, key: str, extension: str, size: int) -> str:
    """Why ``block`` is not the header of ``key.extension`` with ``size`` bytes; empty where it is."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return "no tar header stands before it"
    name = split_name(header.name)
    if name is None or (name.key, name.extension) != (key, extension):
        # A name of over 100 bytes, or one in a pax record, is cut short or changed in the header itself.
        plain = f"{key}.{extension}"
        if plain.isascii() and len(plain) <= 95:
            return f"{header.name!r} stands there"
    elif header.size != size:
        return f"it has {header.size} bytes, the index says {size}"
    return ""
