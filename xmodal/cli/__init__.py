"""The command line: thin commands over the library's functions. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

import xmodal
from xmodal.cli.cache import cache
from xmodal.cli.data import data
from xmodal.cli.distill import distill
from xmodal.cli.doctor import doctor
from xmodal.cli.evaluate import evaluate
from xmodal.cli.group import Group
from xmodal.cli.recipes import recipes
from xmodal.cli.report import report
from xmodal.cli.search import search
from xmodal.cli.zoo import zoo
from xmodal.errors import Interrupted, XmodalError

INTERRUPTED = 130


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(xmodal.__version__, message="xmodal %(version)s")
def cli() -> None:
    """Multimodal and cross-modal distillation: a big model in, an ordinary small checkpoint out."""


for _command in (distill, recipes, data, cache, evaluate, search, report, zoo, doctor):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 (problems found), 2 (a mistake), 130 (interrupted).

    A user's mistake is one message on stderr, without a traceback.
    """
    try:
        code = cli.main(list(arguments) if arguments is not None else None, prog_name="xmodal", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _stop("interrupted.", INTERRUPTED)
    except Interrupted as error:
        return _stop(str(error), INTERRUPTED)
    except XmodalError as error:
        return _stop(str(error), 2)
    except BrokenPipeError:  # what we write to, such as head, has read enough: as click does within a command
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _stop(message: str, code: int) -> int:
    click.echo(f"xmodal: {message}", err=True)
    return code
