"""Whether a block of a tar file is still the header of the member that an index says is there."""

from __future__ import annotations

import tarfile

from xmodal.data.tarnames import split_name

_NAME, _SIZE, _CHECKSUM, _PREFIX, _PREFIX_END = 100, (124, 136), (148, 156), 345, 500


def header_problem(block: bytes, key: str, extension: str, size: int) -> str:
    """Why ``block`` is not the header of ``key.extension`` with ``size`` bytes; empty where it is."""
    if _plainly(block, key, extension, size):
        return ""
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


def _plainly(block: bytes, key: str, extension: str, size: int) -> bool:
    """Whether it is, in the form that nearly all have; found out in a tenth of the time that tarfile takes."""
    name, *_ = block[:_NAME].partition(b"\0")
    if name.decode("utf-8", "surrogateescape") != f"{key}.{extension}" or block[_PREFIX:_PREFIX_END].strip(b"\0"):
        return False
    try:
        stated, checksum = (int(block[start:end].strip(b" \0"), 8) for start, end in (_SIZE, _CHECKSUM))
    except ValueError:
        return False
    # the checksum's own eight bytes count as spaces
    return stated == size and checksum == sum(block) - sum(block[slice(*_CHECKSUM)]) + 8 * ord(" ")
