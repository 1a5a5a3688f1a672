"""What an address says about itself, and this user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

LOCAL_PROTOCOLS = ("file", "local", "memory")


def protocol_of(address: str | os.PathLike[str]) -> str:
    """``https``, ``s3``, …; ``file`` for a path."""
    protocol, separator, _ = str(address).partition("://")
    return protocol.lower() if separator else "file"


def is_remote(address: str) -> bool:
    """Whether reading ``address`` takes a network."""
    return protocol_of(address) not in LOCAL_PROTOCOLS


def is_http(address: str) -> bool:
    """Whether ``address`` is read by HTTP directly."""
    return protocol_of(address) in ("http", "https")


def cache_folder() -> Path:
    """``$XMODAL_CACHE``, or this user's cache folder."""
    given = os.environ.get("XMODAL_CACHE")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("xmodal", appauthor=False))


def is_offline(offline: bool | None = None) -> bool:
    """What the caller says, or else ``$XMODAL_OFFLINE`` (1, true, yes or on)."""
    if offline is not None:
        return offline
    return os.environ.get("XMODAL_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
