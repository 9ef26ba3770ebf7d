"""``secure-fedhelp simulate``: a study from a study file, in one process, with the deployed code and ciphertexts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.errors import InvalidConfiguration

if TYPE_CHECKING:
    from rich.console import Console

    from secure_fedhelp.research.study_file import StudyFile
    from secure_fedhelp.research.summary import Summary


def simulate(
    study: Annotated[
        Path, typer.Argument(help="The study file (examples/, docs/simulation.md), or a sweep's asked.json.")
    ],
    run: Annotated[str | None, typer.Option(help="Id of one run of a sweep's asked.json.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set, for those of the catalog that are not embedded."),
    ] = None,
    encryption: Annotated[
        bool, typer.Option("--encryption/--no-encryption", help="Off: sums in plain, for speed; every result says so.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/simulation"),
    overwrite: Annotated[
        bool, typer.Option(help="Replace the run directory if it exists; in plain, do its runs again.")
    ] = False,
) -> None:
    """Run a study in one process: the same coordinator and hospitals, encryption and masks as deployed, no network.

    A study that ends without its rounds is shown as far as it came; then the command ends with the error's exit code.

    Noise comes from the study's seed, so a run can be made again; 'audit verify' checks it like any other. With
    --no-encryption there is nothing to audit: the folder is that of a sweep of one seed, tables and page.

    Example: secure-fedhelp simulate examples/heart.toml --data-dir data --out runs/heart
    """
    from rich.console import Console

    from secure_fedhelp.research.simulation import simulate as start
    from secure_fedhelp.research.study_file import load_study
    from secure_fedhelp.research.sweep.asked import study_of
    from secure_fedhelp.research.table import print_table

    screen = Console(highlight=False)
    loaded = load_study(study) if run is None else study_of(study, run)
    if not encryption:
        _plain(loaded, data_dir, out, overwrite, screen)
        return

    def show(summary: Summary) -> None:
        print_table(summary, screen)
        screen.print(f"\nReport: {out / 'report.html'}   Summary: {out / 'summary.json'}", markup=False)
        screen.print(f"Check it yourself: secure-fedhelp audit verify {out}", markup=False)

    with LoadingBar(screen) as bar:
        start(loaded, data_dir, out, overwrite, screen, bar, show)


def _plain(study: StudyFile, data_dir: Path | None, out: Path, overwrite: bool, screen: Console) -> None:
    """The same method with sums in plain, beside what a simulation trains as its rivals."""
    from secure_fedhelp.cli.sweep import run_all
    from secure_fedhelp.research.own_data import study_data
    from secure_fedhelp.research.plans import study_plan
    from secure_fedhelp.research.records_table import print_records
    from secure_fedhelp.research.sweep.engines import processes
    from secure_fedhelp.research.sweep.runs import expand, own_method, usual_epsilon

    if (out / "plan.toml").exists():
        raise InvalidConfiguration(f"{out} is the run directory of an encrypted study", "Choose another --out.")
    with LoadingBar(screen) as bar:
        data = study_data(study, data_dir, bar)
    print_records(study_plan(study, data), data, screen)
    contenders = [own_method(study), "local-dp", "local", "public"]
    alone = study.model_copy(update={"variants": {}})  # of which one may have the method's name
    runs = expand(alone, contenders, [usual_epsilon(study)], 1, encrypted=False, data_dir=data_dir)
    run_all(screen, runs, out, lambda left: processes(left, 1), anew=overwrite, shown=True)
