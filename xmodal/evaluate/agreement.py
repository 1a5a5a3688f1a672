"""Agreement: does the student put things where its teacher puts them, and beside the same neighbours?"""

from __future__ import annotations

from xmodal.errors import EvaluationError
from xmodal.evaluate.bootstrap import Figures, PerSample
from xmodal.evaluate.metrics import MOST_OTHERS, NEIGHBORS
from xmodal.evaluate.ranking import neighbor_overlap, rank_correlation
from xmodal.evaluate.space import Side, Space
from xmodal.evaluate.split import Split


def agreement(split: Split, space: Space) -> Figures:
    """Cosine and shared neighbours over the samples that both models can embed.

    Where the widths differ there is no cosine to speak of, and only the neighbours are compared.
    """
    ours, theirs = sides(space)
    if "text" in (ours.modality, theirs.modality):
        split.need_texts()
        student, teacher = split.samples_with_text(ours), split.samples_with_text(theirs)
    else:
        student, teacher = split.samples(ours), split.samples(theirs)
    if len(student) < 2:
        raise EvaluationError(
            f"Agreement needs two samples or more; split {split.name!r} has {len(student)} that both models embed."
        )
    k = min(NEIGHBORS, len(student) - 1)
    metrics: dict[str, PerSample | float] = {
        f"neighbor_agreement@{NEIGHBORS}": PerSample(neighbor_overlap(student, teacher, k)),
        f"chance_neighbor_agreement@{NEIGHBORS}": k / (len(student) - 1),
    }
    if len(student) > 2:
        metrics["rank_agreement"] = PerSample(rank_correlation(student, teacher, MOST_OTHERS))
    if student.shape[1] == teacher.shape[1]:
        metrics = {"teacher_agreement": PerSample((student * teacher).sum(1)), **metrics}
    return metrics


def sides(space: Space) -> tuple[Side, Side]:
    """What is compared: the modality that both have (pictures before texts), else the one each has of a sample."""
    teacher = space.teacher()
    shared = [
        modality
        for modality in ("image", "text")
        if modality in space.student.modalities and modality in teacher.modalities
    ]
    if shared:
        return space.student_side(shared[0]), space.teacher_side(shared[0])
    return space.student_side(space.student.modalities[0]), space.teacher_side(teacher.modalities[0])
