"""Addresses of remote shards taken apart: folder, file name, and a query behind them."""

from __future__ import annotations

from urllib.parse import quote, unquote

from xmodal.errors import DataError
from xmodal.transfer.addresses import is_http


def split(address: str) -> tuple[str, str, str]:
    """Folder, last part and query of an address. Only HTTP has queries: elsewhere ``?`` is a wildcard.

    >>> split("https://host/a/b%20c.tar?key=1")
    ('https://host/a', 'b%20c.tar', 'key=1')
    """
    scheme, _, rest = address.partition("://")
    query = ""
    if is_http(address):
        rest, _, query = rest.partition("#")[0].partition("?")
    folder, slash, name = rest.rpartition("/")
    if not slash:
        folder, name = rest, ""
    return f"{scheme}://{folder}", name, query


def join(folder: str, name: str, query: str = "") -> str:
    """The address of a file whose name is ``name``, in ``folder``.

    >>> join("https://host/a", "b c.tar", "key=1")
    'https://host/a/b%20c.tar?key=1'
    """
    name = quote(name) if is_http(folder) else name
    return f"{folder}/{name}" + (f"?{query}" if query else "")


def file_name(address: str) -> str:
    """What the file is called where it lies.

    >>> file_name("https://host/a/b%20c.tar?key=1"), file_name("s3://bucket/b.tar")
    ('b c.tar', 'b.tar')
    """
    name = split(address)[1]
    decoded = unquote(name) if is_http(address) else name
    return name if "/" in decoded or "\0" in decoded else decoded


def plain(address: str) -> str:
    """The address as a path without its query, for names that people read."""
    return f"{split(address)[0]}/{file_name(address)}"


def refuse_chain(address: str) -> None:
    """Raise :class:`DataError` for fsspec's chains, ``zip://…::s3://…``."""
    if "::" in address:
        raise DataError(
            f"{address} chains file systems with '::', which shards are not read through. Give one address."
        )
