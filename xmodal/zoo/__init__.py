"""Trained students by name: an index at any location, verified downloads, and a way to publish one's own.

``list_entries``, ``show``, ``download`` and ``load`` read an index (by default the one in this package); ``publish``
adds a run's student to one.
"""

from xmodal.transfer.patience import Patience
from xmodal.zoo.fetch import download, load
from xmodal.zoo.index import Entry, File, Index
from xmodal.zoo.publishing import publish
from xmodal.zoo.reading import list_entries, read_index, show
from xmodal.zoo.tables import render_entry, render_list

__all__ = [
    "Entry",
    "File",
    "Index",
    "Patience",
    "download",
    "list_entries",
    "load",
    "publish",
    "read_index",
    "render_entry",
    "render_list",
    "show",
]
