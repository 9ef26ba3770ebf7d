"""``secure-fedhelp audit report``: everything an audit finds about a run, as a page to read or print and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    run: Annotated[Path, typer.Argument(help="The run directory: plan.toml, coordinator/ and hospitals/.")],
    html: Annotated[Path | None, typer.Option(help="Write the page here: one file, no network needed.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the same content as data here.")] = None,
    canary: Annotated[
        Path | None, typer.Option(help="What 'audit canary --json' wrote: measured beside claimed.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Your own copy of the consortium's ca.crt; default: the run's, which proves less."),
    ] = None,
    prv: Annotated[bool, typer.Option("--prv", help="Ask Opacus' PRV accountant too (needs PyTorch).")] = False,
) -> None:
    """Write the audit of a run as a page for whoever has to judge it. Exit code 1 if anything does not hold.

    Files that are missing or damaged give a page that says so.

    Example: secure-fedhelp audit report runs/demo --html audit.html --json audit.json --ca ca.crt
    """
    import time

    from secure_fedhelp.audit.report.gather import gather
    from secure_fedhelp.audit.report.model import to_json
    from secure_fedhelp.audit.report.page import render
    from secure_fedhelp.audit.report.sources import Inputs
    from secure_fedhelp.errors import InvalidConfiguration
    from secure_fedhelp.study.files import write_atomic

    if html is None and json is None:
        raise InvalidConfiguration("nowhere to write the report", "Give --html FILE, --json FILE, or both.")
    found = gather(Inputs(run, ca, canary, prv), time.time())
    if html is not None:
        write_atomic(html, render(found).encode())
    if json is not None:
        write_atomic(json, to_json(found))
    console = Console(highlight=False, soft_wrap=True)
    for check, one in found.failed:
        console.print(f"FAILED {one.subject}, {check.name}: {one.detail}", style="red", markup=False)
    for disclosure in found.without_privacy:
        console.print(f"Without differential privacy: {disclosure.title}", style="yellow", markup=False)
    console.print(found.said, style="green" if found.holds else "bold red", markup=False)
    if not found.holds:
        raise typer.Exit(1)
