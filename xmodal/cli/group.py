"""Command groups that list their commands in the order of use, and point from a wrong name to the nearest right one."""

from __future__ import annotations

import click

from xmodal.errors import hint


class Group(click.Group):
    """A click group that keeps the order in which commands were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.commands:
            ctx.fail(f"{name!r} is not a command. {hint(name, self.commands)}")
        return super().resolve_command(ctx, args)
