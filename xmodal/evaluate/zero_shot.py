"""Zero-shot classification: a picture's class is the one whose description lies closest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.labels import Label
from xmodal.evaluate.ranking import first_hits, random_order
from xmodal.evaluate.space import Space
from xmodal.evaluate.split import Split, need_one_width

ClassNames = Sequence[str] | Mapping[int, str] | Mapping[str, str]


def zero_shot(split: Split, space: Space, *, class_names: ClassNames | None, templates: Sequence[str]) -> Figures:
    """Top-1, top-5, mean per-class recall. A class is its name's mean over the templates, normalised again."""
    check_templates(templates)
    queries, classes, names = classes_of(split, class_names)
    text_side, image_side = space.side("text"), space.side("image")
    sentences = [template.replace("{}", name) for name in names for template in templates]
    described = split.embed_texts(text_side, sentences).view(len(names), len(templates), -1)
    pool = torch.nn.functional.normalize(described.mean(1), dim=1)
    images = split.samples(image_side)[queries]
    need_one_width(images, pool, image_side, text_side)
    hits = first_hits(images, pool, classes, torch.arange(len(names)))
    chance = random_order(torch.ones(1, dtype=torch.long), len(names))
    return {
        **{f"zero_shot_top{k}": PerSample(hits.within(k)) for k in (1, 5)},
        "zero_shot_mean_per_class_recall": PerSample(hits.within(1), classes=classes),
        **{f"chance_zero_shot_top{k}": chance.recall(k) for k in (1, 5)},
        "num_labelled": len(images),
        "num_classes": len(names),
    }


def check_templates(templates: Sequence[str]) -> None:
    """Raises :class:`EvaluationError` for a template without a place for the name."""
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise EvaluationError(
            f"Every template needs {{}} where the class name goes, as in 'a picture of {{}}'; given: {wrong or 'none'}."
        )


def classes_of(split: Split, class_names: ClassNames | None) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The samples that have a class, their classes (numbered from 0), and the classes' names.

    Labels count where the split has any: ``class_names[label]`` names a class. A list whose numbers do not reach the
    largest label is taken in the order of the labels, if it has one name for each. Without ``class_names`` a label that
    is a name is called that, and a number by the text that its samples carry; without labels, every distinct text is a
    class. Raises :class:`EvaluationError` for names that do not fit, or a single class.
    """
    labelled = [(index, label) for index, label in enumerate(split.labels) if label is not None]
    if not labelled:
        if class_names is not None:
            raise EvaluationError(
                f"Class names were given, but split {split.name!r} has no labels (member cls). Leave the names out: "
                "then every distinct text is a class."
            )
        return split.with_text, split.text_numbers, split.need_texts()
    present = sorted({label for _, label in labelled}, key=lambda label: (isinstance(label, str), label))
    named = (
        _names_from_texts(split, labelled) if class_names is None else _names_given(present, class_names, split.name)
    )
    if len(named) < 2:
        raise EvaluationError(
            f"Split {split.name!r} has one class, {next(iter(named.values()))!r}: there is nothing to mistake it for. "
            "Give the names of the others as well: class_names."
        )
    number = {label: index for index, label in enumerate(named)}
    queries, classes = zip(*((index, number[label]) for index, label in labelled), strict=True)
    return torch.tensor(queries), torch.tensor(classes), list(named.values())


def _names_given(present: list[Label], class_names: ClassNames, split: str) -> dict[Label, str]:
    last, named = present[-1], dict[Label, str]()
    if isinstance(class_names, Mapping):
        named.update(class_names.items())
    elif isinstance(last, int) and last < len(class_names):
        named.update(enumerate(class_names))
    elif len(present) == len(class_names):
        named.update(zip(present, class_names, strict=True))
    else:
        raise EvaluationError(
            f"Labels of split {split!r} run from {present[0]} to {present[-1]} ({len(present)} of them occur), and "
            f"{len(class_names)} class names were given. Give one a label, counted from 0, or a mapping label → name."
        )
    unnamed = [label for label in present if label not in named]
    if unnamed:
        raise EvaluationError(
            f"No class name for the labels {unnamed[:10]} of split {split!r}; named are {list(named)[:10]}."
        )
    return named


def _names_from_texts(split: Split, labelled: list[tuple[int, Label]]) -> dict[Label, str]:
    texts: dict[Label, set[str | None]] = {}
    for index, label in labelled:
        texts.setdefault(label, set()).add(split.texts[index])
    named: dict[Label, str] = {}
    for label in sorted(texts, key=lambda label: (isinstance(label, str), label)):
        if isinstance(label, str):
            named[label] = label
            continue
        (name, *others) = sorted(texts[label], key=str)
        if others or name is None:
            what = f"{len(texts[label])} different texts, such as {name!r}" if others else "no text"
            raise EvaluationError(
                f"Label {label} of split {split.name!r} has {what}, so its name is not known. Give class_names."
            )
        named[label] = name
    return named
