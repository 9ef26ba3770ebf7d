"""``secure-fedhelp simulate``: a study from a study file, in one process, with the deployed code and ciphertexts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secure_fedhelp.cli.loading import LoadingBar


def simulate(
    study: Annotated[
        Path, typer.Argument(help="The study file (examples/, docs/simulation.md), or a sweep's asked.json.")
    ],
    run: Annotated[str | None, typer.Option(help="Id of one run of a sweep's asked.json.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set, for those of the catalog that are not embedded."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/simulation"),
    overwrite: Annotated[bool, typer.Option(help="Replace the run directory if it exists.")] = False,
) -> None:
    """Run a study in one process: the same coordinator and hospitals, encryption and masks as deployed, no network.

    Noise comes from the study's seed, so a run can be made again; 'audit verify' checks it like any other.

    Example: secure-fedhelp simulate examples/heart.toml --data-dir data --out runs/heart
    """
    from rich.console import Console

    from secure_fedhelp.research.simulation import simulate as start
    from secure_fedhelp.research.study_file import load_study
    from secure_fedhelp.research.sweep.asked import study_of
    from secure_fedhelp.research.table import print_table

    screen = Console(highlight=False)
    loaded = load_study(study) if run is None else study_of(study, run)
    with LoadingBar(screen) as bar:
        summary = start(loaded, data_dir, out, overwrite, screen, bar)
    print_table(summary, screen)
    screen.print(f"\nReport: {out / 'report.html'}   Summary: {out / 'summary.json'}", markup=False)
    screen.print(f"Check it yourself: secure-fedhelp audit verify {out}", markup=False)
