"""Whether every term finds a source whose samples have all that it compares, every source a term, and every task of the
evaluation its models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xmodal.adapters.encoder import Encoder
from xmodal.adapters.locking import Lockable
from xmodal.adapters.teachers.ema import without_averages
from xmodal.data import StreamSource
from xmodal.errors import EvaluationError, Mistake
from xmodal.evaluate.evaluation import check_models
from xmodal.evaluate.space import Space
from xmodal.objective import Objective
from xmodal.objective.references import BATCH, STUDENT
from xmodal.recipe import Recipe
from xmodal.schemes.presence import modalities_of
from xmodal.train.space import embedding_space


def unserved(objective: Objective, models: Mapping[str, Encoder], sources: Sequence[StreamSource]) -> list[Mistake]:
    """Terms that need together what no source has together, and sources that no term can learn from."""
    if len(sources) == 1:
        return []
    needs = [
        {
            name
            for ref in references
            for name in ([ref.tap] if ref.model == BATCH else modalities_of(models[ref.model], ref.tap))
        }
        for references in objective.references()
    ]
    mistakes = []
    for number, need in enumerate(needs):
        if not any(source.fields >= need for source in sources):
            have = "; ".join(f"{source.name} has {', '.join(sorted(source.fields))}" for source in sources)
            said = f"needs {' and '.join(sorted(need))} of the same sample, which no source has: {have}"
            mistakes.append(Mistake(f"objective.{number}", said))
    for source in sources:
        if not any(source.fields >= need for need in needs):
            said = f"its samples have {', '.join(sorted(source.fields))}, from which no term of the objective can learn"
            mistakes.append(Mistake(f"data.train.{source.name}", said))
    return mistakes


def unread(recipe: Recipe, models: Mapping[str, Encoder]) -> list[Mistake]:
    """Further texts that nobody reads."""
    texts = recipe.data.texts or {}
    if not texts or any(model.other_texts for model in models.values()):
        return []
    return [Mistake("data.texts", "no model of this recipe reads texts (a cached one reads data.text alone)")]


def headless(student: Encoder, before: tuple[Encoder, Objective] | None) -> list[Mistake]:
    """A trained head that the next stage's student would lose: unlocked, one as wide as its model is made without."""
    if before is None:
        return []
    now, then = (
        {name: module for name, module in model.named_modules() if isinstance(module, Lockable)}
        for model in (student, before[0])
    )
    lost = [
        module.name
        for name, module in now.items()
        if module.linear_head is None and name in then and then[name].linear_head is not None
    ]
    return [
        Mistake(
            "stages",
            f"the head that the stage before trained has no place in {name}. Keep it locked, or let embed_dim differ "
            "from the model's own width from the first stage on",
        )
        for name in lost
    ]


def unlearnable(objective: Objective, student: Encoder) -> list[Mistake]:
    """Terms whose taps of the student no training can change, for they are of a locked body."""
    mistakes = []
    for number, references in enumerate(objective.references()):
        taps = [ref.tap for ref in references if ref.model == STUDENT and not ref.tap.endswith(".mask")]
        if taps and not any(student.learns(tap) for tap in taps):
            said = f"{', '.join(taps)} of {student.name} cannot change: it is locked, and only its head's output learns"
            mistakes.append(Mistake(f"objective.{number}.student", said))
    return mistakes


def unmeasurable(recipe: Recipe, student: Encoder, teachers: Mapping[str, Encoder]) -> list[Mistake]:
    """Tasks that these models cannot be measured by, which a run would be told at its end only."""
    if recipe.data.val is None:
        return []
    student.metadata = {**student.metadata, "space": embedding_space(recipe)}
    others = without_averages(teachers)
    if "agreement" in recipe.evaluate.tasks and not others:
        said = "agreement compares the student with its teacher, and it has none, or only its own average"
        return [Mistake("evaluate.tasks", said)]
    if "text-retrieval" in recipe.evaluate.tasks and recipe.evaluate.query is None:
        return [Mistake("evaluate.query", "is missing: by which text does text-retrieval ask? Such as json.name")]
    try:
        check_models(Space(student, others), recipe.evaluate.tasks)
    except EvaluationError as error:
        return [Mistake("evaluate.tasks", str(error))]
    return []
