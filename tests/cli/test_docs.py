"""docs/cli.md has a section for every command, which names every option, and shows commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from xmodal.cli import cli

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0].strip(): part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def leaves(group: click.Group, path: str = "xmodal"):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(leaves(cli))


def test_every_command_has_its_section():
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_named_in_its_section(name):
    options = [opt for param in COMMANDS[name].params if isinstance(param, click.Option) for opt in param.opts]
    assert [option for option in options if option not in SECTIONS[name]] == []


@pytest.mark.parametrize("line", re.findall(r"^xmodal [a-z].*$", PAGE, flags=re.MULTILINE))
def test_the_commands_that_are_shown_parse(line):
    words = shlex.split(line, comments=True)
    name = next(name for name in COMMANDS if " ".join(words).startswith(name + " ") or " ".join(words) == name)
    rest = words[len(name.split()) :]
    COMMANDS[name].make_context(name, [word for word in rest if not word.startswith("[")])
