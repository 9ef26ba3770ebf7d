"""``secure-fedhelp demo``: a whole study on this machine, every party a process of its own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secure_fedhelp.cli.loading import LoadingBar


class Dataset(StrEnum):
    """The data sets the demo knows."""

    breast_cancer = "breast-cancer"
    heart = "heart"
    pneumonia = "pneumonia"
    breast = "breast"
    retina = "retina"


class MaskKind(StrEnum):
    """The second lock (docs/plan.md)."""

    repairing = "repairing"
    strict = "strict"
    none = "none"


def demo(
    dataset: Annotated[Dataset, typer.Option(help="breast-cancer is embedded; the others need --data-dir.")] = (
        Dataset.breast_cancer
    ),
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with uci_heart/ (heart), medmnist/*.npz (pneumonia, breast) or retina_vessels/*.npz (retina)."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; the data set's default if absent.")] = None,
    epsilon: Annotated[float, typer.Option(min=0.01, help="Privacy budget of each patient over the study.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split and the models; never of privacy noise.")] = 1,
    masks: Annotated[
        MaskKind,
        typer.Option(help="repairing: drop-outs are repaired; strict: largest coalition; none: one lock only."),
    ] = MaskKind.repairing,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option(help="Replace the run directory if it exists.")] = False,
) -> None:
    """Run a study end to end: coordinator, hospitals and a foundation model server over mutual TLS on loopback.

    A study that ends without its rounds is shown as far as it came; then the command ends with the error's exit code.

    Example: secure-fedhelp demo --dataset breast-cancer --epsilon 3 --out runs/first
    """
    from rich.console import Console

    from secure_fedhelp.research.demo import DemoSettings, run_demo

    settings = DemoSettings(dataset.value, data_dir, rounds, epsilon, seed, out, overwrite, masks.value)
    with LoadingBar(Console(highlight=False)) as bar:
        run_demo(settings, bar)
