"""Exit codes, messages and imports: what every command has in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from xmodal.cli import cli
from xmodal.errors import DataError, Interrupted


def commands(group: click.Group, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(cli))


def test_the_commands_are_those_of_the_design():
    leaves = {" ".join(path) for path, command in ALL.items() if not isinstance(command, click.Group)}
    assert leaves == {
        "distill",
        *(f"recipes {name}" for name in ("list", "show", "copy", "check")),
        *(f"data {name}" for name in ("pack", "index", "check", "show", "keys")),
        "cache",
        "evaluate",
        "search",
        "report",
        *(f"zoo {name}" for name in ("list", "show", "download", "load", "publish")),
        "doctor",
    }


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_help_says_what_a_command_does_in_one_whole_line(path, xmodal):
    outcome = xmodal(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"xmodal {' '.join(path)}".strip() in outcome.out
    assert "..." not in outcome.out.replace("[KEY=VALUE]...", "").replace("SHARDS...", "").replace("[ARGS]...", "")
    if path:
        assert ALL[path].get_short_help_str(limit=200).endswith(".")


@pytest.mark.parametrize(
    "line",
    [
        ("--help",),
        ("recipes", "list"),
        ("distill", "--help"),
        ("recipes", "show", "emoji-text-to-image", "train.seed=1"),
    ],
)
def test_light_commands_import_nothing_heavy(line):
    heavy = ("torch", "timm", "transformers", "open_clip", "numpy", "PIL", "xmodal.data", "xmodal.adapters")
    code = (
        f"import sys; from xmodal.cli import main; code = main({line!r}); "
        f"print([name for name in {heavy!r} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.endswith("[] 0\n")


def test_a_mistake_is_one_message_on_stderr_and_exit_code_2():
    line = [sys.executable, "-m", "xmodal", "recipes", "check", "emoji-txt-to-image"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("xmodal: 'emoji-txt-to-image' is not a recipe. Nearest: emoji-text-to-image")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("Shard a.tar is broken."), 2, "xmodal: Shard a.tar is broken.\n"),
        (Interrupted("Stopped after step 3."), 130, "xmodal: Stopped after step 3.\n"),
        (KeyboardInterrupt(), 130, "xmodal: interrupted.\n"),
    ],
)
def test_every_way_to_stop_has_its_exit_code(error, code, message, xmodal, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("xmodal.report.write_report", stop)
    outcome = xmodal("report", "runs/a")
    assert (outcome.code, outcome.out, outcome.err.lstrip("\n")) == (code, "", message)


def test_a_bug_of_ours_is_not_hidden(xmodal, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("xmodal.report.write_report", fail)
    with pytest.raises(ZeroDivisionError):
        xmodal("report", "runs/a")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("recipe",), "'recipe' is not a command. Nearest: recipes"),
        (("zoo", "lst"), "'lst' is not a command. Nearest: list"),
        (("distill",), "Missing argument 'RECIPE'"),
        (("distill", "emoji-text-to-image"), "--out runs/emoji-text-to-image"),
        (("search", "a cat"), "Missing option '--student'"),
        (("evaluate", "a", "--format", "xml"), "'xml' is not one of"),
    ],
)
def test_a_wrong_command_line_is_said_with_its_usage(line, words, xmodal):
    outcome = xmodal(*line)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.startswith("Usage: xmodal")


def test_version_is_the_package_s(xmodal):
    import xmodal as package

    assert xmodal("--version").out == f"xmodal {package.__version__}\n"


def test_a_reader_that_closes_the_pipe_is_no_error(shards: Path):
    line = [sys.executable, "-m", "xmodal", "data", "keys", str(shards), "--batch-size", "1", "--slots", "1"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")
