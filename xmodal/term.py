"""One entry of a recipe's objective: a loss between taps, its weight, and what stands between the two sides."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from xmodal.section import Named, Section, Spec

Taps = str | list[str | list[str] | dict[str, str]] | dict[str, str]
"""Tap references of one side: one, or one for each input; for an input of several tensors, a list or a mapping."""

Masks = str | list[str] | dict[str, str | dict[str, str]]
"""Tap references of masks: one, a list in the loss's own order, or by the mask's name."""


class Schedule(Section):
    """A number that changes during a run, or a stage of one: ``{from: 0, to: 1, until: 0.2}``.

    Before ``after`` it is the first value, beyond ``until`` the last.
    """

    first: float = Field(alias="from", description="its value before it changes")
    last: float = Field(alias="to", description="its value once it has changed")
    after: float = Field(0.0, ge=0, lt=1, description="share of the steps after which it changes")
    until: float = Field(1.0, gt=0, le=1, description="share of the steps at which it has changed")
    shape: Literal["linear", "cosine"] = Field("linear", description="along a line, or slowly at both ends")

    @model_validator(mode="after")
    def _forward(self) -> Schedule:
        if not self.after < self.until:
            raise ValueError(f"ends before it starts: after {self.after:g}, until {self.until:g}")
        return self


class Standardize(Section):
    """Teacher's features brought to mean 0 and one scale: by running statistics, or by measured ones that stay."""

    method: Literal["running", "whitening", "phi_s"] = Field(
        "running", description="running mean and deviation; or a map measured before the first step"
    )
    momentum: float = Field(0.1, gt=0, le=1, description="what a batch weighs in the running statistics")
    samples: int = Field(4096, ge=2, description="how many samples whitening and phi_s are measured on")

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, given: Any) -> Any:
        return {"method": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _no_idle_option(self) -> Standardize:
        idle = "samples" if self.method == "running" else "momentum"
        if getattr(self, idle) != type(self).model_fields[idle].default:
            raise ValueError(f"{idle} does nothing with method {self.method}; leave it out")
        return self


class Projection(Spec):
    """A projection by name; its options stand beside it."""

    learning_rate_factor: float = Field(1.0, gt=0, description="its learning rate, as a multiple of the run's")

    @model_validator(mode="before")
    @classmethod
    def _of_spec(cls, given: Any) -> Any:
        return dict(given) if isinstance(given, BaseModel) and not isinstance(given, cls) else given


class Term(Named):
    """One loss between taps of the student and of its teachers.

    A tap reference is ``tap`` or ``model:tap``. Without a prefix it belongs to the side on which it is listed; a
    prefix (``student:``, ``teacher:``, or a name under ``teachers``) takes a tap of any model on either side, and
    ``batch:label`` a field of the batch itself. The loss receives the student's references, then the teacher's, in the
    order listed. An input of several tensors takes a list of references, or a mapping from modality to them.
    """

    loss: str = Field(description="name of the loss; its options stand beside it")
    student: Taps = Field(description="taps of the student, in the order in which the loss takes them")
    teacher: Taps | None = Field(None, description="taps of the teacher, likewise")
    weight: float | Schedule = Field(1.0, description="factor of the term in the sum")
    mask: Masks | None = Field(None, description="tap that says which positions count, such as teacher:text.mask")
    projection: str | Projection | None = Field(
        None,
        description="map between spaces: linear, mlp, identity, conv, resampler, ladder, pca, random_orthogonal",
    )
    side: Literal["student", "teacher"] = Field("student", description="whose features the projection maps")
    standardize: bool | Literal["running", "whitening", "phi_s"] | Standardize = Field(
        False, description="standardise the teacher's features: true, {momentum: 0.1}, whitening, {method: phi_s}"
    )
    label: str | None = Field(None, description="the name under which the term is logged; the loss's own by default")
