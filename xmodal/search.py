"""Pictures found by a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from xmodal.adapters.encoder import Encoder
from xmodal.errors import EvaluationError, hint
from xmodal.evaluate.contact_sheet import contact_sheet
from xmodal.evaluate.embedding import embed, embed_texts
from xmodal.evaluate.ranking import top
from xmodal.evaluate.space import open_space
from xmodal.evaluate.split import need_one_width
from xmodal.recipe import Shards

if TYPE_CHECKING:
    from xmodal.data.shards import ShardSet


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    key: str
    text: str | None
    """The picture's own text, where it has one."""
    score: float
    """Cosine with the query."""
    shard: str
    sample: int
    """Number of the sample among all of the shards."""


def search(
    query: str,
    *,
    student: Encoder | str | Path,
    data: Shards | ShardSet,
    count: int = 10,
    save: str | Path | None = None,
    teachers: Mapping[str, Encoder] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    text: str = "txt",
) -> list[Hit]:
    """The ``count`` pictures of ``data`` that lie closest to ``query``, best first.

    ``student`` is an encoder, or a student or run folder. What it cannot embed itself, the sentence as a rule, the
    teacher of its space does (see :func:`xmodal.evaluate.evaluate`). ``save`` names a picture file for a contact sheet.

    Raises :class:`EvaluationError` for an empty query, an unknown file type, or models that share no space.
    """
    from xmodal.data.shards import open_shards

    if not query.strip() or count < 1:
        raise EvaluationError(f"Search needs a sentence and a count of 1 or more; given {query!r} and {count}.")
    if save is not None:
        _check_file(Path(save))
    shards = open_shards(data)
    space = open_space(student, teachers)
    text_side, image_side = space.side("text"), space.side("image")
    sentence = embed_texts(text_side.encoder, [query], tap=text_side.tap)
    pictures = embed(
        image_side.encoder,
        shards,
        modality="image",
        batch_size=batch_size,
        num_workers=num_workers,
        text=text,
        tap=image_side.tap,
    )
    need_one_width(pictures.embeddings, sentence, image_side, text_side)
    scores, found = top(sentence, pictures.embeddings, count)
    samples = _samples_of(pictures.keys, shards)
    hits = [
        Hit(
            pictures.keys[row],
            pictures.texts[row],
            score,
            shards.names[shards.locate(samples[row])[0]],
            samples[row],
        )
        for score, row in zip(scores[0].tolist(), found[0].tolist(), strict=True)
    ]
    if save is not None:
        save_sheet(query, hits, shards, Path(save))
    return hits


def save_sheet(query: str, hits: Sequence[Hit], shards: ShardSet, path: Path) -> None:
    """Write a contact sheet: the query on top, the pictures with their names (keys, where they have none) below."""
    from xmodal.data.decode import decode

    shown = []
    for hit in hits:
        picture: Image.Image = decode(shards.read(hit.sample), fields=("image",))["image"]
        shown.append((picture, hit.text or hit.key, f"{hit.score:.3f}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(query, shown).save(path)


def _samples_of(keys: Sequence[str], shards: ShardSet) -> list[int]:
    """The sample number of every row: rows follow the shards, with the undecodable left out; keys may repeat."""
    numbers: list[int] = []
    for sample in range(shards.num_samples):
        if len(numbers) < len(keys) and shards.key(sample) == keys[len(numbers)]:
            numbers.append(sample)
    assert len(numbers) == len(keys), "rows that are not in the order of the shards"
    return numbers


def _check_file(path: Path) -> None:
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in known:
        raise EvaluationError(
            f"{path} does not end as a picture file does. {hint(path.suffix, ['.png', '.jpg', '.webp'])}"
        )
