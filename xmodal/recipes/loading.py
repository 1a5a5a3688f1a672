"""From a name, a file or a mapping to a typed recipe; the recipes that ship with the library."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from xmodal.errors import Mistake, RecipeError, RecipeFileError, UnknownNameError
from xmodal.plain import plain, read_yaml
from xmodal.recipe import Recipe, as_dict
from xmodal.recipes.complaints import mistakes_of, show
from xmodal.recipes.overrides import apply_overrides
from xmodal.registry import Registry

SUFFIXES = (".yaml", ".yml")

RECIPES: Registry[Any] = Registry("recipe")
"""Name → YAML file. Other packages add theirs through the entry-point group ``xmodal.recipes``: a ``pathlib.Path``."""

for _file in sorted(resources.files("xmodal.recipes").iterdir(), key=lambda file: file.name):
    if _file.name.endswith(".yaml"):
        RECIPES.register(_file.name.removesuffix(".yaml"))(_file)


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """A recipe by name, from a YAML file or from a mapping, changed by ``overrides``.

    Overrides are ``"train.batch_size=64"`` or ``{"train.batch_size": 64}``; see :func:`apply_overrides`. A recipe that
    has no ``name`` takes that of its file.

    Raises :class:`RecipeError` with every mistake at once, :class:`RecipeFileError` where there is no readable file,
    and :class:`UnknownNameError` for a name that no recipe has.

    >>> load_recipe("emoji-text-to-image", ["train.batch_size=64"]).train.batch_size
    64
    """
    if isinstance(source, Recipe) and not overrides:
        return source
    raw, label, name = _read(source)
    raw.setdefault("scheme", Recipe.model_fields["scheme"].default)  # so that an override may give it an option
    changed, mistakes = apply_overrides(raw, overrides)
    if name and not changed.get("name"):
        changed = {"name": name, **{key: value for key, value in changed.items() if key != "name"}}
    try:
        recipe = Recipe.model_validate(changed)
    except ValidationError as error:
        mistakes.extend(mistakes_of(error, Recipe, changed))
    if mistakes:
        from xmodal.recipes.checking import find_mistakes, in_order

        raise RecipeError(in_order([*mistakes, *find_mistakes(changed, known=mistakes)]), label)
    return recipe


def stages(recipe: Recipe) -> list[Recipe]:
    """The recipes that a recipe with ``stages`` runs one after another, each override merged into what came before.

    Without stages, the recipe itself. Raises :class:`RecipeError` where an override leaves no valid recipe.
    """
    if not recipe.stages:
        return [recipe]
    found, mistakes = merge_stages(
        {key: value for key, value in recipe.to_dict().items() if key != "stages"}, recipe.stages
    )
    if mistakes:
        raise RecipeError(mistakes, f"recipe {recipe.name}".strip())
    return list(found.values())


def merge_stages(
    base: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, Recipe], list[Mistake]]:
    """Every stage that could be made, by number, and the mistakes of the others under ``stages.N``."""
    made: dict[int, Recipe] = {}
    mistakes: list[Mistake] = []
    told: list[Mistake] = []
    current = dict(base)
    for number, override in enumerate(overrides):
        current, wrong = apply_overrides(current, override)
        if current.pop("stages", None) is not None:
            wrong.append(Mistake("stages", "a stage has no stages of its own"))
        try:
            made[number] = Recipe.model_validate(current)
        except ValidationError as error:
            wrong.extend(mistakes_of(error, Recipe, current))
        mistakes.extend(
            Mistake(f"stages.{number}.{mistake.path}", mistake.message) for mistake in wrong if mistake not in told
        )
        told.extend(wrong)  # a later stage inherits what is wrong with an earlier one
    return made, mistakes


def list_recipes() -> list[str]:
    """The names of the recipes that are installed, in alphabetical order."""
    return list(RECIPES)


def recipe_text(name: str) -> str:
    """The YAML of a named recipe, with its comments."""
    text: str = _named(name).read_text(encoding="utf-8")
    return text


def copy_recipe(name: str, file: str | Path) -> Path:
    """Write a named recipe to ``file``, to change it there. Refuses to overwrite."""
    text, file = recipe_text(name), Path(file)
    if file.suffix not in SUFFIXES:
        raise RecipeFileError(
            f"{file} would not be read as a recipe again: a path must end in .yaml. Try {file.name}.yaml"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RecipeFileError(f"{file} exists already; name another file, or delete it first.") from None
    except OSError as error:
        raise RecipeFileError(f"{file} cannot be written: {error.strerror}.") from None
    return file


def _read(source: str | Path | Mapping[str, Any] | Recipe) -> tuple[dict[str, Any], str, str]:
    """The mapping, how messages call it, and the name that it has if it does not say one itself."""
    if isinstance(source, Recipe):
        return source.to_dict(), f"recipe {source.name}".strip(), source.name
    if isinstance(source, Mapping):
        try:
            return plain(as_dict(dict(source))), "recipe", ""
        except ValueError as error:
            raise RecipeError([Mistake("", str(error))]) from None
    if isinstance(source, Path) or str(source).endswith(SUFFIXES):
        path = Path(source)
        return (
            _parse(_text_of(path), str(path)),
            f"recipe {path}",
            path.name.removesuffix(path.suffix).removesuffix(".resolved"),
        )
    return _parse(recipe_text(str(source)), str(source)), f"recipe {source}", str(source)


def _parse(text: str, label: str) -> dict[str, Any]:
    try:
        raw = read_yaml(text)
        if not isinstance(raw, dict):
            found = "is empty" if raw is None else f"holds {show(raw)}"
            raise RecipeFileError(
                f"recipe {label} {found}; a recipe is a mapping with the keys student, data, objective, train, …"
            )
        parsed: dict[str, Any] = plain(raw)
    except ValueError as error:
        raise RecipeFileError(f"recipe {label} is not the YAML of a recipe: {error}") from None
    return parsed


def _text_of(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise RecipeFileError(f"{path} is not a recipe file: a path must end in .yaml.")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent
        beside = (
            [file.name for file in folder.iterdir() if file.suffix in SUFFIXES and file.name[0] != "."]
            if folder.is_dir()
            else []
        )
        close = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.4)
        looked = f"Looked in {folder.resolve()}" + ("" if folder.is_dir() else ", which does not exist")
        also = f" Nearest there: {', '.join(close)}." if close else ""
        named = f" A recipe of that name ships with xmodal: leave out {path.suffix}." if path.stem in RECIPES else ""
        raise RecipeFileError(f"{path}: no such recipe file. {looked}.{also}{named}") from None
    except IsADirectoryError:
        raise RecipeFileError(f"{path} is a folder, not a recipe file.") from None
    except OSError as error:
        raise RecipeFileError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise RecipeFileError(f"{path} is not UTF-8 text: byte {error.start}. Save it as UTF-8.") from None


def _named(name: str) -> Any:
    try:
        return RECIPES[name]
    except UnknownNameError as error:
        note = "A path to a recipe file must end in .yaml."
        raise UnknownNameError("recipe", name, error.known, note) from None
