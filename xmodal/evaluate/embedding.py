"""Embeddings of whole shards and of lists of texts, normalised; the encoder is left as it was found."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmodal.adapters.encoder import Encoder, Preprocess
from xmodal.adapters.modes import in_eval_mode
from xmodal.data.formats.captions import captions_of
from xmodal.data.members import MemberError
from xmodal.data.texts import text_at
from xmodal.errors import EvaluationError
from xmodal.evaluate.labels import Label, label_of
from xmodal.recipe import Shards

if TYPE_CHECKING:
    from xmodal.data.shards import ShardSet

logger = logging.getLogger("xmodal")


@dataclass(frozen=True)
class Embedded:
    """What an encoder makes of a set of shards: one row a sample, in the order of the shards."""

    keys: list[str]
    embeddings: Tensor
    """``[N, D]``, float32, on the CPU, each row of length one."""
    texts: list[str | None]
    """The samples' texts without surrounding blanks; None where there is none or it is empty."""
    labels: list[Label | None]
    """Integers or names; None where a sample has none."""
    captions: list[tuple[str, ...]]
    """All the texts of each sample, of which ``texts`` has the first; more than one only where all were asked for."""
    queries: list[str | None]
    """Another text of each sample, where one was asked for."""
    bad: int = 0
    """Samples that were left out because they do not decode."""


class OneModality:
    """An encoder's own preprocessing, shown one field only, so that a sample needs no more than that."""

    def __init__(self, preprocess: Preprocess, modality: str) -> None:
        self.preprocess = preprocess
        self.fields: tuple[str, ...] = (modality,)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        return self.preprocess({field: sample[field] for field in self.fields})

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return self.preprocess.collate(items)


class TextAndLabel:
    """A view without a model: each sample's text and label, None where it has none.

    A batch's own ``text`` and ``label`` are there only if all of its samples have them, which hangs on the batch size.
    """

    def __init__(self, all_of: str | None = None, label: str = "cls", query: str | None = None) -> None:
        self.all_of, self.label = all_of, label
        """The text of which every caption is wanted: a line each, or an entry each of a list in JSON."""
        self.query = query
        """Another text that is wanted of each sample."""
        self.fields: tuple[str, ...] = () if all_of is None and query is None and label == "cls" else ("members",)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        return {"captions": self._captions(sample), "label": self._label(sample), "query": self._query(sample)}

    def _query(self, sample: Mapping[str, Any]) -> str | None:
        """Read as the text is; None where the sample has none that can be read."""
        if self.query is None:
            return None
        try:
            return text_at(sample["members"], self.query, key=sample["key"], view=0, seed=0)
        except MemberError:
            return None

    def _label(self, sample: Mapping[str, Any]) -> Label | None:
        return sample.get("label") if self.label == "cls" else label_of(sample["members"], self.label)

    def _captions(self, sample: Mapping[str, Any]) -> tuple[str, ...]:
        if self.all_of is not None:
            return captions_of(sample["members"], self.all_of)
        text = (sample.get("text") or "").strip()
        return (text,) if text else ()

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:  # lists, for no model reads them
        return {name: [item[name] for item in items] for name in ("captions", "label", "query")}


def embed(
    encoder: Encoder,
    shards: Shards | ShardSet,
    *,
    modality: str,
    batch_size: int = 128,
    num_workers: int = 0,
    text: str = "txt",
    label: str = "cls",
    query: str | None = None,
    tap: str | None = None,
    all_captions: bool = False,
) -> Embedded:
    """Embed every sample of ``shards`` by the encoder's ``tap``, ``<modality>.embedding`` by default.

    ``text`` names the member that holds the texts, as in a recipe's ``data.text``, ``query`` another text, and
    ``label`` the one that holds an integer or a name: ``cls``, or a path such as ``json.group``. Samples are decoded
    and preprocessed in ``num_workers`` processes while the encoder works. Mode and random state are restored. With
    ``all_captions`` a sample has every line of its text, or every entry of its list in JSON, as ``captions``.

    Raises :class:`EvaluationError` for a modality that the encoder does not have, shards without any sample that can
    be read, and an embedding that is not finite (named by its key).
    """
    from xmodal.data.stream import EvalStream

    tap = _check_tap(encoder, modality, tap)
    stream = EvalStream(
        shards,
        preprocess={
            "model": OneModality(encoder.preprocess, modality),
            "facts": TextAndLabel(text if all_captions else None, label, query),
        },
        batch_size=batch_size,
        text=text,
        num_workers=num_workers,
    )
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    labels: list[Label | None] = []
    queries: list[str | None] = []
    chunks: list[Tensor] = []
    device = _device(encoder)
    with untouched(encoder):
        for batch in stream:
            inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch["views"]["model"].items()}
            chunks.append(_normalised(encoder(inputs, [tap])[tap], batch["key"], encoder, tap))
            keys += batch["key"]
            captions += batch["views"]["facts"]["captions"]
            labels += batch["views"]["facts"]["label"]
            queries += batch["views"]["facts"]["query"]
    if not keys:
        raise EvaluationError(
            f"None of the {stream.num_bad} samples of {shards} can be read as {modality} (text member: {text!r}). "
            "See what they hold: xmodal data check SHARDS"
        )
    if stream.bad_samples:
        first = stream.bad_samples[0]
        what = f"the first is {first.key!r} of {first.shard}: {first.reason}"
        logger.warning("%d of %d samples are left out; %s", stream.num_bad, stream.num_samples, what)
    texts = [next(iter(all_of_it), None) for all_of_it in captions]
    return Embedded(keys, torch.cat(chunks), texts, labels, captions, queries, stream.num_bad)


def embed_texts(encoder: Encoder, texts: Sequence[str], *, batch_size: int = 128, tap: str | None = None) -> Tensor:
    """Embed a list of texts: ``[N, D]``, float32, on the CPU, each row of length one. Mode and RNG are restored.

    Raises :class:`EvaluationError` where the encoder does not read text or an embedding is not finite.
    """
    tap = _check_tap(encoder, "text", tap)
    by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding in a batch
    with untouched(encoder):
        features = encoder.encode(text=[texts[index] for index in by_length], taps=[tap], batch_size=batch_size)[tap]
    embeddings = _normalised(features, [repr(texts[index]) for index in by_length], encoder, tap)
    return embeddings[torch.tensor(by_length).argsort()]


@contextmanager
def untouched(*encoders: Encoder) -> Iterator[None]:
    """Eval mode, no gradients, float32; afterwards every module's mode and all random states are as before."""
    devices = {_device(encoder) for encoder in encoders}
    cuda = [device for device in devices if device.type == "cuda"]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            stack.enter_context(torch.no_grad())
            stack.enter_context(in_eval_mode(*encoders))
            for kind in sorted({device.type for device in devices} | {"cpu"}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _check_tap(encoder: Encoder, modality: str, tap: str | None) -> str:
    if modality not in encoder.modalities:
        raise EvaluationError(f"{encoder.name} does not read {modality}; it reads {', '.join(encoder.modalities)}.")
    return tap or f"{modality}.embedding"


def _device(encoder: Encoder) -> torch.device:
    parameter = next(encoder.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _normalised(features: Tensor, names: Sequence[str], encoder: Encoder, tap: str) -> Tensor:
    if features.ndim != 2:
        raise EvaluationError(
            f"{tap} of {encoder.name} is not one vector a sample but of shape {tuple(features.shape[1:])}; "
            "an evaluation needs a pooled tap such as image.embedding or text.embedding."
        )
    features = features.float().cpu()
    finite = features.isfinite().all(1)
    if not finite.all():
        bad = (~finite).nonzero()[:, 0]
        raise EvaluationError(
            f"{tap} of {encoder.name} holds NaN or infinity for {names[int(bad[0])]}, the first of {len(bad)} in its "
            f"batch of {len(names)}. The weights are broken or overflow; evaluate an earlier checkpoint."
        )
    return torch.nn.functional.normalize(features, dim=1)
