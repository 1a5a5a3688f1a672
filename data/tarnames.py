"""WebDataset's rule for names in a tar: the key ends at the first dot of the file name, the rest is the extension."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """A member's name, taken apart."""

    key: str
    extension: str
    problem: str = ""
    """What makes the name unfit for a shard; empty where nothing does."""


def split_name(name: str) -> Name | None:
    """Key and lower-case extension of a member; None for a file that belongs to no sample.

    >>> split_name("birds/owl.seg.PNG")
    Name(key='birds/owl', extension='seg.png', problem='')
    >>> split_name("README") is None, split_name("birds/.hidden") is None
    (True, True)
    >>> split_name("../owl.png").problem
    'has a name that leaves its folder'
    """
    name = name.removeprefix("./")
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if ".." in folder.split("/") or name.startswith("/"):
        return Name(name, "", "has a name that leaves its folder")
    if not stem or not dot or not extension or (stem.startswith("__") and stem.endswith("__")):
        return None  # webdataset skips these as well
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return Name(name, "", "has a name with control characters or bytes that are not UTF-8")
    return Name(folder + slash + stem, extension.lower())
