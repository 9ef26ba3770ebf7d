"""``secure-fedhelp compare``: a study against its rivals over seeds, without encryption."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fedhelp.cli.demo import Dataset

if TYPE_CHECKING:
    from rich.console import Console

    from secure_fedhelp.research.compare import Estimate, Row


def compare(
    dataset: Annotated[Dataset, typer.Option(help="breast-cancer is embedded; the others need --data-dir.")] = (
        Dataset.breast_cancer
    ),
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with uci_heart/ (heart) or medmnist/*.npz (pneumonia, breast).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions; each has its own split, weights and noise.")] = 5,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; the data set's default if absent.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0.01, help="Privacy budget of each patient; the data set's default if absent.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds run at a time, each in a process of its own.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write every figure to this .csv or .json file.")] = None,
) -> None:
    """Compare a study with what its hospitals could do alone: same epsilon, same steps, same public set.

    Runs the method of the real study in one process, with plain sums in place of encrypted ones.

    Example: secure-fedhelp compare --dataset breast-cancer --seeds 5
    """
    from rich.console import Console

    from secure_fedhelp.errors import InvalidConfiguration
    from secure_fedhelp.research.compare import CompareSettings, run_comparison, write_rows

    if out is not None and out.suffix not in (".csv", ".json"):
        raise InvalidConfiguration(f"{out}: the figures are written as .csv or .json", "Choose such a name.")
    console = Console(highlight=False, soft_wrap=True)
    settings = CompareSettings(dataset.value, data_dir, seeds, rounds, epsilon, jobs)
    rows = run_comparison(settings, lambda seed: console.print(f"seed {seed} of {seeds} done"))
    _print(console, settings.dataset, rows)
    if out is not None:
        write_rows(out, rows)
        console.print(f"Every figure: {out}", markup=False)


def _print(console: Console, dataset: str, rows: list[Row]) -> None:
    from secure_fedhelp.research.compare import DIFFERENCES, MODELS, difference, level, measured, tiers

    seeds = len({row.seed for row in rows})
    spent = max(row.epsilon for row in rows if row.epsilon is not None)
    console.print(
        f"\n{dataset}, {seeds} seeds, epsilon spent {spent:.3f}; plain sums (no encryption), one test set for all.\n"
        "A seed's value is the mean over the tier's hospitals.",
        markup=False,
    )
    metrics = measured(rows)
    for tier in tiers(rows):
        lines = [
            (label, *(level_words(level(rows, tier, model, metric)) for metric in metrics))
            for model, label in MODELS.items()
        ]
        _table(console, f"{tier} hospitals: mean ± sd", ("model", *metrics.values()), lines)
        lines = [
            (f"{one} − {two}", *(_difference(difference(rows, tier, (one, two), metric)) for metric in metrics))
            for one, two in DIFFERENCES
        ]
        title = f"{tier} hospitals: paired differences, 95 % t interval over seeds"
        _table(console, title, ("difference", *metrics.values()), lines)


def _table(console: Console, title: str, header: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*header, title=title, title_justify="left")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def level_words(found: Estimate) -> str:
    """Mean ± standard deviation; of one seed the mean alone."""
    return f"{found.mean:.3f}" + ("" if math.isnan(found.deviation) else f" ± {found.deviation:.3f}")


def _difference(found: Estimate) -> str:
    if math.isnan(found.half_width):
        return f"{found.mean:+.3f} (one seed: no interval)"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
