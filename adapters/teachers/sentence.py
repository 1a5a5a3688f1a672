"""Sentence encoders: any transformers text model, pooled as its own folder says."""

from __future__ import annotations

from xmodal.adapters.hub import fetch
from xmodal.adapters.registration import TEACHERS
from xmodal.adapters.sentence_encoder import SentenceEncoder
from xmodal.adapters.sentence_folder import read_sentence_folder
from xmodal.adapters.static_encoder import StaticEncoder


@TEACHERS.register("sentence")
def sentence(model: str, revision: str | None = None, prompt: str | None = None) -> SentenceEncoder | StaticEncoder:
    """A text encoder by hub name, folder or installed package.

    ``model``: ``sentence-transformers/all-MiniLM-L6-v2``, or a folder's path. ``revision`` is resolved to a commit.
    ``prompt`` is put before every text; by default the model's own default prompt, where it has one.
    See :class:`~xmodal.adapters.sentence_encoder.SentenceEncoder` for its taps.
    """
    source = fetch(model, revision)
    name = f"sentence ({model.rstrip('/').rsplit('/', 1)[-1]})"
    return read_sentence_folder(source.folder, name, prompt=prompt, weights_identity=source.identity)
