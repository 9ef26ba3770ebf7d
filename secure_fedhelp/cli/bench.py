"""``secure-fedhelp bench``: what an aggregation costs, beside plain floats and other projects; what privacy costs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from secure_fedhelp.research.bench.settings import Plan

app = typer.Typer(
    help=(
        "Measure aggregation: seconds, bytes, memory and error; and what a private step and its noise cost.\n\n"
        "Example: secure-fedhelp bench aggregation --json bench.json"
    ),
    no_args_is_help=True,
)


class TransportKind(StrEnum):
    """How messages travel."""

    none = "none"
    grpc = "grpc"
    both = "both"


Profiles = Annotated[
    list[str] | None, typer.Option("--profile", help="An encryption profile; give it again for more than one.")
]
NoMasks = Annotated[bool, typer.Option("--no-masks", help="Measure without masks only.")]
Peers = Annotated[
    list[str] | None,
    typer.Option(help="nvflare=PATH or flower=PATH: the python of an environment that has it; may be repeated."),
]
Repeats = Annotated[int, typer.Option("--repeat", min=1, help="Rounds of each setting, taken in turn.")]
Json = Annotated[Path, typer.Option("--json", help="Write every figure to this file.")]


@app.command("aggregation")
def aggregation(
    json_out: Json,
    values: Annotated[int, typer.Option(min=1, help="Values in each contribution.")] = 1_000_000,
    hospitals: Annotated[int, typer.Option(min=2, help="Hospitals in the sum.")] = 10,
    profile: Profiles = None,
    no_masks: NoMasks = False,
    transport: Annotated[
        TransportKind, typer.Option(help="none: in one process; grpc: a real coordinator over mutual TLS.")
    ] = TransportKind.both,
    peer_python: Peers = None,
    repeat: Repeats = 3,
    memory_hospitals: Annotated[
        list[int] | None, typer.Option(min=2, help="Also measure the coordinator's memory at so many (default: 100).")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write charts to this HTML file.")] = None,
) -> None:
    """Measure one aggregation of one size: ours, plain floats, and other projects, in turn.

    Example: secure-fedhelp bench aggregation --values 1000000 --hospitals 10 --json bench.json
    """
    from rich.console import Console

    from secure_fedhelp.research.bench.plots import write_bars
    from secure_fedhelp.research.bench.results import write_results
    from secure_fedhelp.research.bench.table import print_results

    plan = _plan(values, hospitals, profile, no_masks, transport, peer_python, repeat, memory_hospitals or [100])
    _require_places(json_out, plot)
    from secure_fedhelp.research.bench.suite import run_suite  # which loads for seconds: what is wrong is said before

    with _Shown() as shown:
        results = run_suite(plan, shown.step)
    write_results(json_out, results)
    out = Console(highlight=False)
    print_results(results, out)
    out.print(f"Every figure: {json_out}", markup=False)
    if plot is not None:
        write_bars(plot, results)
        out.print(f"Charts: {plot}", markup=False)


@app.command("sweep")
def sweep(
    json_out: Json,
    html: Annotated[Path, typer.Option(help="Write charts to this HTML file.")],
    values: Annotated[int, typer.Option(min=1, help="Values in each contribution where hospitals vary.")] = 1_000_000,
    hospitals: Annotated[int, typer.Option(min=3, help="Hospitals in the sum where values vary.")] = 10,
    largest_values: Annotated[int, typer.Option(min=10_000, help="Largest number of values.")] = 100_000_000,
    largest_hospitals: Annotated[int, typer.Option(min=2, help="Largest number of hospitals.")] = 100,
    profile: Profiles = None,
    no_masks: NoMasks = False,
    transport: Annotated[
        TransportKind, typer.Option(help="none: in one process; grpc: a real coordinator over mutual TLS.")
    ] = TransportKind.none,
    peer_python: Peers = None,
    repeat: Repeats = 1,
    longest_seconds: Annotated[
        float, typer.Option(min=0, help="A size that would take longer, or more memory than there is, is extrapolated.")
    ] = 1800.0,
) -> None:
    """Measure how costs grow with hospitals (2 to 100) and with values (10^4 to 10^8), and draw it.

    Example: secure-fedhelp bench sweep --json sweep.json --html sweep.html
    """
    from rich.console import Console

    from secure_fedhelp.research.bench.plots import write_curves
    from secure_fedhelp.research.bench.results import write_results
    from secure_fedhelp.research.bench.table import print_results

    base = _plan(values, hospitals, profile, no_masks, transport, peer_python, repeat, [])
    _require_places(json_out, html)
    from secure_fedhelp.research.bench.sweep import HOSPITALS, VALUES, SweepPlan, run_sweep

    plan = SweepPlan(
        base,
        tuple(n for n in HOSPITALS if n <= largest_hospitals),
        tuple(n for n in VALUES if n <= largest_values),
        longest_seconds,
    )
    with _Shown() as shown:
        results = run_sweep(plan, shown.step)
    write_results(json_out, results)
    write_curves(html, results, values, hospitals)
    out = Console(highlight=False)
    print_results(results, out)
    out.print(f"Every figure: {json_out}   Charts: {html}", markup=False)


@app.command("noise")
def noise(
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Pairs of measurements of each model.")] = 31,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
) -> None:
    """Measure a private step with cryptographic noise against the same step with Opacus' default noise.

    Example: secure-fedhelp bench noise --json noise.json
    """
    from rich.console import Console

    _require_places(json_out)
    from secure_fedhelp.research.bench.noise import run_noise, write_noise
    from secure_fedhelp.research.bench.table import noise_table

    with _Shown() as shown:
        results = run_noise(repeat, shown.step)
    out = Console(highlight=False)
    out.print(noise_table(results))
    if json_out is not None:
        write_noise(json_out, results)
        out.print(f"Every figure: {json_out}", markup=False)


@app.command("training")
def training(
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Pairs of steps for each way and model.")] = 15,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
) -> None:
    """Measure a private step against a plain one, for each way to the records' gradients, on the studies' networks.

    Example: secure-fedhelp bench training --json training.json
    """
    from rich.console import Console

    _require_places(json_out)
    from secure_fedhelp.research.bench.table import training_table
    from secure_fedhelp.research.bench.training import run_training, write_training

    with _Shown() as shown:
        results = run_training(repeat, shown.step)
    out = Console(highlight=False)
    out.print(training_table(results))
    if json_out is not None:
        write_training(json_out, results)
        out.print(f"Every figure: {json_out}", markup=False)


def _plan(
    values: int,
    hospitals: int,
    profiles: list[str] | None,
    no_masks: bool,
    transport: TransportKind,
    peers: list[str] | None,
    repeats: int,
    memory_hospitals: list[int],
) -> Plan:
    from secure_fedhelp.research.bench.peers import parse_peers
    from secure_fedhelp.research.bench.results import Transport
    from secure_fedhelp.research.bench.settings import Plan
    from secure_fedhelp.study.threshold import Masks

    transports: dict[TransportKind, tuple[Transport, ...]] = {
        TransportKind.none: ("none",),
        TransportKind.grpc: ("grpc",),
        TransportKind.both: ("none", "grpc"),
    }
    masks: tuple[Masks, ...] = ("none",) if no_masks else ("repairing", "none")
    return Plan(
        values=values,
        hospitals=hospitals,
        profiles=tuple(dict.fromkeys(profiles or Plan.profiles)),
        masks=masks,
        transports=transports[transport],
        peers=parse_peers(peers or []),
        repeats=repeats,
        memory_hospitals=tuple(sorted(set(memory_hospitals))),
    )


def _require_places(*paths: Path | None) -> None:
    from secure_fedhelp.research.bench.results import require_place

    for path in paths:
        if path is not None:
            require_place(path)


class _Shown:
    """Progress on standard error, so that standard output holds the results alone."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("starting", total=None)

    def step(self, what: str, done: int, total: int) -> None:
        self._progress.update(self._task, description=what, completed=done, total=total)

    def __enter__(self) -> _Shown:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
