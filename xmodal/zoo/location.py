"""Where an index lies: a local folder or any address that fsspec knows; the files lie relative to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from xmodal.errors import ZooError
from xmodal.transfer.addresses import is_http, protocol_of

INDEX_NAME = "index.json"


@dataclass(frozen=True)
class Location:
    """A zoo's folder (a path or address, no slash at its end), the index's name in it, and an address's query."""

    folder: str
    index_name: str = INDEX_NAME
    query: str = ""

    @property
    def protocol(self) -> str:
        return protocol_of(self.folder)

    @property
    def index(self) -> str:
        return self.join(self.index_name)

    def join(self, *parts: str) -> str:
        """The address of a file below the folder, or below a base that is an address of its own.

        >>> Location("https://host/zoo").join("students/a b/", "config.json")
        'https://host/zoo/students/a%20b/config.json'
        """
        parts = tuple(part.strip("/") for part in parts if part.strip("/"))
        folder, query = self.folder, self.query
        if parts and "://" in parts[0]:
            (folder, *parts_left), query = parts, ""
            parts = tuple(parts_left)
        if is_http(folder):
            parts = tuple(quote(part) for part in parts)
        return "/".join((folder, *parts)) + (f"?{query}" if query else "")


def locate(index: str | os.PathLike[str] | None) -> Location:
    """The zoo meant by a folder, an index file, or an address of either; the package's own for None.

    >>> locate("hf://me/zoo/").index
    'hf://me/zoo/index.json'
    """
    if index is None:
        return Location(str(Path(__file__).parent))
    text = str(index)
    if not text.strip():
        raise ZooError("A zoo's location is empty; give a folder, or an address such as hf://user/zoo.")
    if "://" in text and "::" in text:
        raise ZooError(
            f"{text} chains file systems with '::', which a zoo cannot be read through; give a plain address."
        )
    protocol = protocol_of(text)
    if protocol in ("file", "local"):
        path = Path(unquote(urlsplit(text).path) if "://" in text else text).expanduser().absolute()
        return Location(str(path.parent), path.name) if path.suffix == ".json" else Location(str(path))
    query = ""
    if is_http(text):
        text, _, query = text.partition("#")[0].partition("?")
    text = text.rstrip("/")
    if text.endswith(".json"):
        folder, _, name = text.rpartition("/")
        return Location(folder, name, query)
    return Location(text, INDEX_NAME, query)
