"""Sections of a recipe: keys with types and defaults, frozen, whose constructors say in plain words what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from xmodal.errors import RecipeError, XmodalError
from xmodal.plain import plain

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name


class _Speaking(ModelMetaclass):
    """Constructors that speak our language: what pydantic finds wrong is raised as a RecipeError."""

    def __call__(cls, *args: Any, **options: Any) -> Any:  # noqa: N805  a metaclass
        try:
            return super().__call__(*args, **options)
        except ValidationError as error:
            from xmodal.recipes.complaints import mistakes_of

            raise RecipeError(mistakes_of(error, cast("type[BaseModel]", cls), options), cls.__name__) from None


class Section(BaseModel, metaclass=_Speaking):
    """Keys with defaults; no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return plain(given, keep=(BaseModel,)) if isinstance(given, Mapping) else given

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name].annotation if info.field_name else bool
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            raise ValueError  # Python would take true for 1
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise XmodalError(f"A recipe does not change; make another one: load_recipe(recipe, {{'…{name}': {value!r}}}).")


class Named(Section):
    """A registered name and, beside it, the options of what is registered."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Spec(Named):
    """A registered name and its options, side by side: ``{name: timm, model: resnet18}``."""

    name: str = Field(description="what it is registered as; its options stand beside it")


def as_dict(value: Any) -> Any:
    """Sections as mappings, wherever they stand in ``value``."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = {
            key: entry for key, entry in value if not (entry is None and key in fields and fields[key].default is None)
        }
        return {written_as(key, fields.get(key)): as_dict(entry) for key, entry in kept.items()}
    if isinstance(value, dict):
        return {key: as_dict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_dict(entry) for entry in value]
    return value


def written_as(name: str, info: FieldInfo | None) -> str:
    """The key of a recipe that a field is: its own name, but where Python keeps that for itself (``from``)."""
    return (info.alias if info is not None else None) or name
