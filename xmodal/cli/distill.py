"""``xmodal distill``: run a recipe."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the run; must be new or empty.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR where its last checkpoint stands.")
@click.option(
    "--dry-run", is_flag=True, help="Load everything, try one batch, say what would be trained, write nothing."
)
def distill(recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, dry_run: bool) -> None:
    """Train a student by a recipe.

    RECIPE is a recipe's name (see `xmodal recipes list`) or a path that ends in .yaml.

    KEY=VALUE changes a key of the recipe, such as train.batch_size=64, data.train=shards/*.tar or objective.0.weight=2.
    """
    if dry_run:
        from xmodal.distillation import dry_run as run_dry

        run_dry(recipe, overrides=overrides)
        return
    if out is None:
        name = Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")
        raise click.UsageError(f"--out is missing: where should the run go? Such as --out runs/{name}")
    from xmodal.distillation import distill as run

    run(recipe, out=out, overrides=overrides, resume=resume)
