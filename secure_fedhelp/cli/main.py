"""``secure-fedhelp``: one sub-command a reader. Help answers without torch, Opacus or TenSEAL (a test proves it)."""

from __future__ import annotations

import io
import os
import sys

import typer
from rich.console import Console

from secure_fedhelp import __version__
from secure_fedhelp.cli import (
    audit,
    bench,
    consortium,
    coordinator,
    demo,
    foundation,
    hospital,
    plan,
    simulate,
    sweep,
)
from secure_fedhelp.cli.plain import plain
from secure_fedhelp.errors import FedHelpError

app = typer.Typer(
    name="secure-fedhelp",
    help=(
        "Federated learning between hospitals that trust neither the network, nor the server, nor each other.\n\n"
        "Example: secure-fedhelp demo --dataset breast-cancer --out runs/first"
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("sweep")(sweep.sweep)
app.add_typer(consortium.app, name="consortium")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(hospital.app, name="hospital")
app.add_typer(foundation.app, name="foundation")
app.add_typer(audit.app, name="audit")
app.add_typer(bench.app, name="bench")
app.add_typer(plan.app, name="plan")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"secure-fedhelp {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: a FedHelpError becomes two lines and its exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without UTF-8 shows '?' for a letter, and no traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except FedHelpError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away (a pager was closed): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def report_error(error: FedHelpError) -> None:
    """Print the error's name, what happened and what to do next, to standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    message, hint = plain(error.message, keep="\n"), plain(error.hint, keep="\n")
    console.print(f"error: {type(error).__name__}: {message}", style="bold red", markup=False)
    console.print(f"hint: {hint}", markup=False)
