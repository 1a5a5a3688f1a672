"""Sharded data: pack, index, read, decode and check shards; streams of batches in a resumable order.

Functions that share their module's name (``pack``, ``check``, ``show``, ``decode``, ``keys``) are imported from it:
``from xmodal.data.pack import pack``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.data.check import Finding as Finding
    from xmodal.data.decode import SampleError as SampleError
    from xmodal.data.hashing import stable_hash as stable_hash
    from xmodal.data.index import Index as Index
    from xmodal.data.index import build_index as build_index
    from xmodal.data.index import read_index as read_index
    from xmodal.data.index import write_index as write_index
    from xmodal.data.indexing import index_shards as index_shards
    from xmodal.data.manifest import Manifest as Manifest
    from xmodal.data.manifest import read_manifest as read_manifest
    from xmodal.data.mixture import Mixture as Mixture
    from xmodal.data.plan import Plan as Plan
    from xmodal.data.shards import RawSample as RawSample
    from xmodal.data.shards import ShardSet as ShardSet
    from xmodal.data.shards import open_shards as open_shards
    from xmodal.data.stream import EvalStream as EvalStream
    from xmodal.data.stream import TrainStream as TrainStream
    from xmodal.data.stream_sources import StreamSource as StreamSource
    from xmodal.data.stream_sources import open_sources as open_sources
    from xmodal.data.uri import expand as expand
    from xmodal.data.writer import ShardWriter as ShardWriter

_EXPORTS = {
    "EvalStream": "stream",
    "Finding": "check",
    "Index": "index",
    "Manifest": "manifest",
    "Mixture": "mixture",
    "Plan": "plan",
    "RawSample": "shards",
    "SampleError": "decode",
    "StreamSource": "stream_sources",
    "ShardSet": "shards",
    "ShardWriter": "writer",
    "TrainStream": "stream",
    "build_index": "index",
    "expand": "uri",
    "index_shards": "indexing",
    "open_shards": "shards",
    "open_sources": "stream_sources",
    "read_index": "index",
    "read_manifest": "manifest",
    "stable_hash": "hashing",
    "write_index": "index",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:  # nothing is imported before it is asked for: torch and Pillow take seconds
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"xmodal.data.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
