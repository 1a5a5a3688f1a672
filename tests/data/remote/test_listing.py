"""A listing that hangs once is asked for again, and the second answer is taken."""

from __future__ import annotations

import threading

import fsspec

from xmodal.data.remote import folder as remote_folder
from xmodal.transfer.patience import Patience


def test_a_listing_that_hangs_once_is_tried_again(monkeypatch):
    store = fsspec.filesystem("memory")
    store.pipe("/listed/train-000.tar", b"x")
    released, calls, glob = threading.Event(), [], type(store).glob

    def hang_once(self, path, **options):
        calls.append(path)
        if len(calls) == 1:
            released.wait()
        return glob(self, path, **options)

    monkeypatch.setattr(type(store), "glob", hang_once)
    monkeypatch.setattr(remote_folder, "_LISTING_SECONDS", 0.5)
    monkeypatch.setattr(remote_folder, "patience_for", lambda *given: Patience(attempts=3, pause=0.0))
    try:
        assert remote_folder.listed("memory://listed/*.tar", "memory://listed/*.tar") == [
            "memory://listed/train-000.tar"
        ]
    finally:
        released.set()
        store.rm("/listed", recursive=True)
    assert len(calls) == 2
