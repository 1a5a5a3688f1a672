"""``xmodal doctor``: what this machine has, and whether a recipe would run on it."""

from __future__ import annotations

import click

from xmodal.cli.printing import format_option, only_result_on_stdout, print_json, print_table


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@format_option
@click.pass_context
def doctor(context: click.Context, recipe: str | None, overrides: tuple[str, ...], form: str) -> None:
    """Find out what would not work on this machine.

    Looks at versions, devices, caches and limits; with RECIPE, loads all that it needs and tries one batch. Exits with
    1 if something would keep xmodal from working.
    """
    from xmodal.doctor import examine

    with only_result_on_stdout(form):
        findings = list(examine(recipe, overrides))
    if form == "json":
        print_json([{"subject": f.subject, "state": f.state, "detail": f.detail, "mend": f.mend} for f in findings])
    else:
        rows: list[tuple[str, str, str]] = []
        for finding in findings:
            first, *more = finding.detail.split("\n")
            rows.append((finding.state, finding.subject, first))
            rows.extend(("", "", line) for line in more)
            if finding.mend:
                rows.append(("", "", f"→ {finding.mend}"))
        print_table(rows)
    if any(finding.state == "problem" for finding in findings):
        context.exit(1)
