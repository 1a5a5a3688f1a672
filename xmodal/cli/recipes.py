"""``xmodal recipes``: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path

import click

from xmodal.cli.group import Group
from xmodal.cli.printing import format_option, print_json, print_table


@click.group(cls=Group)
def recipes() -> None:
    """List, show, copy and check recipes."""


@recipes.command("list")
@format_option
def list_(form: str) -> None:
    """Names and descriptions of the recipes that are installed."""
    from xmodal.recipes import list_recipes, load_recipe

    described = {name: load_recipe(name).description for name in list_recipes()}
    if form == "json":
        print_json(described)
    else:
        print_table(list(described.items()))


@recipes.command()
@click.argument("recipe")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--resolved", is_flag=True, help="With every default written out.")
def show(recipe: str, overrides: tuple[str, ...], resolved: bool) -> None:
    """Print a recipe as YAML.

    As it is written, comments included; with KEY=VALUE or --resolved, as it would run.
    """
    from xmodal.recipes import list_recipes, load_recipe, recipe_text

    if resolved or overrides or recipe not in list_recipes():
        click.echo(load_recipe(recipe, overrides).to_yaml(), nl=False)
    else:
        click.echo(recipe_text(recipe), nl=False)


@recipes.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def copy(name: str, file: Path) -> None:
    """Copy the recipe NAME to FILE, to edit it."""
    from xmodal.recipes import copy_recipe

    written = copy_recipe(name, file)
    click.echo(f"{written}   (run it: xmodal distill {written} --out runs/{written.stem})")


@recipes.command()
@click.argument("recipe", metavar="FILE")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def check(recipe: str, overrides: tuple[str, ...]) -> None:
    """Find every mistake of a recipe, before weights are loaded."""
    from xmodal.errors import RecipeError
    from xmodal.recipes import check as find_mistakes
    from xmodal.recipes import load_recipe

    loaded = load_recipe(recipe, overrides)
    mistakes = find_mistakes(loaded)
    if mistakes:
        raise RecipeError(mistakes, f"recipe {recipe}")
    teachers = " + ".join(spec.name for spec in loaded.all_teachers().values())
    models = f"{teachers} → {loaded.student.name}" if teachers else loaded.student.name
    click.echo(f"{recipe}: no mistakes.   {models}: {', '.join(term.loss for term in loaded.objective)}")
