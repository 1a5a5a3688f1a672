"""Linear probe: how well a linear classifier on frozen embeddings tells classes apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.logistic import Logistic, fit
from xmodal.evaluate.ranking import class_hits
from xmodal.evaluate.space import Side, Space
from xmodal.evaluate.split import Split
from xmodal.evaluate.training_set import Labelled, TrainingSet, device_of, facts, held_out, need_training_set, own_side

STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""C of the logistic regressions that are tried; then half a decade to either side of the best."""


@dataclass
class Probes:
    """The classifiers of one evaluation: fitted once for a side, whatever number of splits they are asked about."""

    train: TrainingSet | None
    seed: int
    _fitted: dict[tuple[int, str], tuple[Logistic, float]] | None = None

    def of(self, side: Side) -> tuple[Logistic, float]:
        """The classifier on the training set's embeddings by ``side``, and its C."""
        self._fitted = self._fitted or {}
        if (id(side.encoder), side.tap) not in self._fitted:
            known, labels = need_training_set(self.train, "probe").read(side)
            device = device_of(side)
            strength = choose_strength(known, len(labels), seed=self.seed, device=device)
            features, classes = known.embeddings.to(device), known.classes.to(device)
            self._fitted[id(side.encoder), side.tap] = fit(features, classes, len(labels), strength), strength
        return self._fitted[id(side.encoder), side.tap]


def probe(split: Split, space: Space, *, probes: Probes) -> Figures:
    """Top-1, top-5 and mean per-class recall of a logistic regression on the training set's embeddings."""
    train = need_training_set(probes.train, "probe")
    side = own_side(space)
    known, labels = train.read(side)
    asked = train.asked(split, side)
    classifier, strength = probes.of(side)
    odds = classifier(asked.embeddings.to(classifier.weight.device)).softmax(1).cpu()
    hits = class_hits(odds, asked.classes)
    return {
        **{f"probe_top{place}": PerSample(hits.within(place)) for place in (1, 5)},
        "probe_mean_per_class_recall": PerSample(hits.within(1), classes=asked.classes),
        "probe_c": strength,
        **facts(asked, known, labels),
    }


def choose_strength(train: Labelled, num_classes: int, *, seed: int, device: torch.device | str = "cpu") -> float:
    """The C that is best on a fifth of the training set, held out by ``seed``: by top-1, then by cross-entropy.

    Raises :class:`EvaluationError` where no class has two samples, so that none can be held out.
    """
    out = held_out(train, seed)
    if not bool(out.any()):
        raise EvaluationError(
            f"Each of the {num_classes} classes has one training sample, so none can be held out to choose the probe's "
            "regularisation. Give two or more of some class, or use nearest neighbours: --task knn"
        )
    features, classes = train.embeddings.to(device), train.classes.to(device)
    out = out.to(device)
    found: dict[float, tuple[float, float]] = {}
    start = None

    def measure(strength: float) -> None:
        nonlocal start
        classifier = fit(features[~out], classes[~out], num_classes, strength, start=start)
        start = classifier.weight  # the next, freer fit lies near by
        odds = classifier(features[out]).log_softmax(1)
        top1 = class_hits(odds.exp().cpu(), classes[out].cpu()).recall(1)
        found[strength] = (top1, float(odds.gather(1, classes[out][:, None]).mean()))

    for strength in STRENGTHS:
        measure(strength)
    best = max(found, key=lambda strength: found[strength])
    for strength in (best * 10**-0.5, best * 10**0.5):
        measure(strength)
    return max(found, key=lambda strength: found[strength])
