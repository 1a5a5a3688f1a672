"""MobileCLIP's reinforced shards (DataCompDR): what teachers said is stored in the samples, so that none has to run.

A sample holds, beside ``jpg`` and ``txt``:

- ``paug.json``: ``param_aug``, the parameters of each view's augmentation (see :mod:`xmodal.data.formats.replay`);
- ``syn.json``: ``syn_text``, synthetic captions;
- ``npz``, or ``pth.gz`` in bfloat16: ``image_emb`` ``[views, D]`` and ``text_emb`` ``[captions, D]``, the true
  captions first, then the synthetic ones. D is that of all teachers side by side: DataCompDR's two, OpenAI's ViT-L/14
  and DataComp's, have 768 each, of length one.

Which view and which caption are shown follows from (seed, view, key); the picture is augmented by the stored parameters
of that view, and the embeddings are those of that view and that caption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.decode import decode
from xmodal.data.formats.arrays import Array, read_gzipped_torch, read_npz
from xmodal.data.formats.captions import captions_of
from xmodal.data.formats.replay import Parameters, parse_parameters, parse_views, replay
from xmodal.data.hashing import stable_hash
from xmodal.data.members import MemberError, SampleError, listed
from xmodal.data.reader import RawSample
from xmodal.data.texts import decode_json, tidy

FIELD = "reinforced"
"""Of a model whose preprocessing names this field, samples are read by :func:`read_reinforced`."""

SYNTHETIC = 0.5
"""How often a synthetic caption is shown: as MobileCLIP weighs its two losses."""

_MAX_CAPTIONS = 10_000


@dataclass(frozen=True)
class Reinforced:
    """What is stored of one view and one caption of a sample."""

    view: int
    """Number of the stored view."""
    parameters: Parameters
    caption: int
    """Number of the caption, the true ones first."""
    text: str | None
    """That caption; None where the sample has no text for it."""
    image_embedding: Array
    """``[D]``, float32: of the picture as that view shows it."""
    text_embedding: Array
    """``[D]``, float32: of that caption."""


def reinforced_sample(
    raw: RawSample, view: int = 0, seed: int = 0, *, text: str = "txt", synthetic: float = SYNTHETIC
) -> Reinforced:
    """What the sample stores of the stored view number ``view`` modulo their number, and of one of its captions.

    A synthetic caption is taken with probability ``synthetic``, drawn from (seed, view, key) as is which one. ``text``
    names the member of the true captions: a text, or a list in a JSON one. Raises :class:`SampleError` where a member
    is missing, is broken, or does not fit the others.
    """
    try:
        return _sample(raw, view, seed, text, synthetic)
    except MemberError as error:
        raise SampleError(raw.key, raw.shard, str(error)) from error.__cause__


def read_reinforced(
    raw: RawSample,
    *,
    fields: Collection[str],
    text: str = "txt",
    label: str = "cls",
    features: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    view: int = 0,
    seed: int = 0,
    image_size: int | None = None,
    synthetic: float = SYNTHETIC,
) -> dict[str, Any]:
    """A training sample as the teachers saw it: decoded ``fields``, ``key``, ``shard``, ``view`` and ``reinforced``.

    ``image`` is augmented by the stored parameters, ``image_size`` (224) pixels a side; ``text`` is the caption whose
    embedding ``reinforced``, a :class:`Reinforced`, holds. Raises :class:`SampleError` as :func:`reinforced_sample`.
    """
    stored = reinforced_sample(raw, view, seed, text=text, synthetic=synthetic)
    wanted = set(fields) - {FIELD, "members"}
    sample = decode(raw, fields=wanted, text=text, label=label, features=features, texts=texts, view=view, seed=seed)
    if "image" in sample:
        try:
            sample["image"] = replay(sample["image"], stored.parameters, size=image_size)
        except MemberError as error:
            raise SampleError(raw.key, raw.shard, str(error)) from error.__cause__
    if stored.text is not None:
        sample["text"] = stored.text
    members = {"members": raw.members} if "members" in fields else {}
    return {**sample, "shard": raw.shard, "view": view, FIELD: stored, **members}


def _sample(raw: RawSample, view: int, seed: int, text: str, synthetic: float) -> Reinforced:
    members = raw.members
    views = parse_views(_member(members, "paug.json"))
    images, texts = _embeddings(members)
    if len(images) != len(views):
        raise MemberError(f"image_emb holds {len(images)} views, .paug.json the parameters of {len(views)}")
    made = _synthetic_captions(_member(members, "syn.json")) if "syn.json" in members else []
    true = list(_true_captions(members, text))
    # without its text, a true caption can still be known to be there from its embedding
    num_true = len(true) or len(texts) - len(made)
    if num_true < 0 or num_true + len(made) != len(texts):
        raise MemberError(
            f"text_emb holds {len(texts)} captions, but there are {num_true} in {text!r} and {len(made)} in .syn.json"
        )
    caption = _choose(raw.key, view, seed, num_true, len(made), synthetic)
    shown = view % len(views)
    captions = [*(true or [""] * num_true), *made]
    return Reinforced(
        view=shown,
        parameters=parse_parameters(views[shown]),
        caption=caption,
        text=captions[caption] or None,
        image_embedding=images[shown],
        text_embedding=texts[caption],
    )


def _true_captions(members: Mapping[str, bytes], text: str) -> tuple[str, ...]:
    captions = captions_of(members, text)
    return (" ".join(captions),) if text in members and len(captions) > 1 else captions  # one text, of several lines


def _choose(key: str, view: int, seed: int, num_true: int, num_synthetic: int, synthetic: float) -> int:
    """The number of a caption, drawn from (seed, view, key): of a share ``synthetic``, one behind the true ones."""
    share = 1.0 if num_true == 0 else 0.0 if num_synthetic == 0 else synthetic
    if stable_hash("synthetic", seed, view, key) < share * 2**64:
        return num_true + stable_hash("caption", seed, view, key) % num_synthetic
    return stable_hash("caption", seed, view, key) % num_true


def _embeddings(members: Mapping[str, bytes]) -> tuple[Array, Array]:
    names = ("image_emb", "text_emb")
    if "npz" in members:
        found = read_npz(members["npz"], names)
    elif "pth.gz" in members:
        found = read_gzipped_torch(members["pth.gz"], names)
    else:
        raise MemberError(f"has no embeddings (member npz or pth.gz), only {listed(members)}")
    for name, array in found.items():
        if array.ndim != 2 or 0 in array.shape:
            raise MemberError(f"{name} is of shape {array.shape}, not [number, width]")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise MemberError(f"{name} holds NaN or infinity in row {row}")
    images, texts = (found[name].astype(np.float32) for name in names)
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise MemberError("embeddings hold numbers that float32 does not")
    if images.shape[1] != texts.shape[1]:
        raise MemberError(
            f"image_emb is {images.shape[1]} wide and text_emb {texts.shape[1]}: not of the same teachers"
        )
    return images, texts


def _synthetic_captions(data: bytes) -> list[str]:
    found = decode_json(data)
    captions = found.get("syn_text") if isinstance(found, dict) else None
    if not isinstance(captions, list) or len(captions) > _MAX_CAPTIONS:
        raise MemberError(".syn.json has no list syn_text")
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise MemberError(".syn.json: syn_text holds something else than texts with words in them")
    return [tidy(caption, ".syn.json: syn_text") for caption in captions]


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise MemberError(f"has no .{name}, only {listed(members)}")
    return members[name]
