"""The command line. Each file here adds the commands of one kind to `app`; torch is imported only by those that train.

An error that a user can cause is printed as one line, `error: ...`, with exit code 1; --debug shows where it came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from bitwright import __version__
from bitwright.errors import BitwrightError

app = typer.Typer(
    name="bitwright",
    help="Make PyTorch image networks as small and as fast on a CPU as they can be, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

NEEDS_TRAIN = (
    "torch",
    "accelerate",
    "pydantic",
    "yaml",
    "plotly",
    "jinja2",
    "sklearn",
    "scipy",
    "optuna",
    "sqlalchemy",
    "tensorboardX",
)
"""Top-level modules that come with the extra `train`."""
INTERRUPTED = 130
"""The exit code that typer gives to Ctrl-C."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitwright {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that come before the command."""
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. `arguments` default to those of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given[:1]
    if os.getcwd() not in sys.path:  # last, so that a factory module.py beside the user is found and hides nothing
        sys.path.append(os.getcwd())
    try:
        app(args=given, prog_name="bitwright")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            return _fail("stopped; a run goes on where it was when the same command is given again", False, INTERRUPTED)
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BitwrightError as error:
        return _fail(str(error), debug)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDS_TRAIN:
            raise
        return _fail(f'this command needs {error.name}, which is not installed; pip install "bitwright[train]"', debug)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}; mend that and give the same command again", debug)
    return 0


def screen() -> Console:
    """Where answers are printed: as wide as the terminal, and wide enough for any table where there is none."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def _fail(message: str, debug: bool, code: int = 1) -> int:
    console = Console(stderr=True)
    if debug:
        console.print_exception()
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
    return code


from bitwright.cli import comparing, drawing, judging, listing, looking, making, publishing, searching, using  # noqa: E402, F401  (each registers its commands)
