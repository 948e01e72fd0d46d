"""This file is the door of the command line: the commands, and which exit code means what.

Exit codes: 0 done; 1 an error that says what to mend; 2 a wrong call; 3 the budget is violated; 4 the budget is
undecided (an interval straddles a bound); 130 interrupted (call again to resume).
"""

from __future__ import annotations

import sys
from typing import Final

import typer

from dwindle.cli.analyze import analyze
from dwindle.cli.bench import bench
from dwindle.cli.compare import compare
from dwindle.cli.compress import compress
from dwindle.cli.console import print_error, stderr
from dwindle.cli.demo import demo
from dwindle.cli.doctor import doctor
from dwindle.cli.export import export
from dwindle.cli.fits import fits
from dwindle.cli.inspect import inspect
from dwindle.cli.profile import profile
from dwindle.cli.study import study
from dwindle.errors import DwindleError
from dwindle.version import VERSION

ERROR, WRONG_CALL, INTERRUPTED = 1, 2, 130
UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]
"""What every wrong call raises; typer carries its own copy of click, so it cannot be imported by name."""

app = typer.Typer(
    name="dwindle",
    help="Make a trained PyTorch network fit an edge device, and prove it by measuring the file that is deployed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo)
app.command()(compress)
app.command()(analyze)
app.command()(inspect)
app.command()(export)
app.command()(fits)
app.command()(bench)
app.command()(compare)
app.command()(profile)
app.command()(doctor)
app.add_typer(study)


@app.callback(invoke_without_command=True)
def version(
    *, show_version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)
) -> None:
    """Make a trained PyTorch network fit an edge device, and prove it by measuring the file that is deployed."""
    if show_version:
        print(VERSION)
        raise typer.Exit


def run() -> None:
    """Run the command line; every error of ours becomes one message and exit code 1."""
    try:
        code = app(standalone_mode=False)
    except (DwindleError, OSError) as error:
        print_error(error)
        sys.exit(ERROR)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except UsageError as error:
        stderr.print("[bold red]wrong call:[/] ", end="")
        stderr.print(f"{_words_of(error)}; see --help", markup=False)
        sys.exit(WRONG_CALL)
    if code == INTERRUPTED:  # typer itself turns Ctrl-C inside a command into this code
        stderr.print("interrupted; the same call goes on where it was")
    sys.exit(code if isinstance(code, int) else 0)


def _words_of(error: Exception) -> str:
    """Return the message with the name of the option, which the plain text of such an error leaves out."""
    told = getattr(error, "format_message", None)
    return (str(error) if told is None else str(told())).rstrip(".")


if __name__ == "__main__":
    run()
