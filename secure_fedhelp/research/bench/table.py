"""Results on a terminal: what each setting costs, and how it compares with plain floats and with other projects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fedhelp.research.bench.results import OURS, Result

if TYPE_CHECKING:
    from secure_fedhelp.research.bench.noise import NoiseResult
    from secure_fedhelp.research.bench.training import TrainingResult

NOTHING = "-"


def print_results(results: Sequence[Result], console: Console) -> None:
    """Two tables for each size: costs, then ratios."""
    for size in dict.fromkeys((r.values, r.hospitals) for r in results):
        here = [r for r in results if (r.values, r.hospitals) == size]
        console.print(_costs(here, *size))
        if (ratios := _ratios(here)).row_count:
            console.print(ratios)
    console.print(Text("Medians. Total: one hospital's upload work, all of the coordinator's, and one"))
    console.print(Text("hospital's download work. What is not comparable: docs/benchmarks.md"))


def noise_table(results: Sequence[NoiseResult]) -> Table:
    """Steps with our noise against steps with Opacus' default noise."""
    table = _table("a private step")
    for heading in ("model", "values", "batch"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for heading in ("ours\nms", "Opacus\nms", "\nratio", "middle\nhalf", "noise\nms", "Opacus\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        low, high = r.ratio_quartiles
        seconds = [f"{1000 * s:.2f}" for s in (r.step_s, r.opacus_step_s, r.noise_s, r.opacus_noise_s)]
        cells = [f"{r.dataset}: {r.model}", f"{r.parameters:,}", f"{r.batch}", *seconds[:2]]
        table.add_row(*map(Text, [*cells, f"{r.ratio:.2f}", f"{low:.2f}-{high:.2f}", *seconds[2:]]))
    return table


def training_table(results: Sequence[TrainingResult]) -> Table:
    """Private steps over plain ones, a column for each way; the one that training takes is starred."""
    table = _table("a private step over a plain one")
    table.add_column("model", no_wrap=True)
    modes = [mode.mode for mode in results[0].modes]
    short = [mode.removeprefix("opacus-").replace("-", "\n") for mode in modes]
    for heading in ("batch", "plain\nms", *short):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        cells = [f"{r.dataset}: {r.model}", f"{r.batch}", f"{1000 * r.plain_s:.2f}"]
        for mode in r.modes:
            ratio = NOTHING if mode.ratio is None else f"{mode.ratio:.3g}"
            cells.append(f"{ratio}{'*' if mode.mode == r.chosen else ''}")
        table.add_row(*map(Text, cells))
    table.caption = "* what training takes. - cannot do the model, or gives another sum"
    return table


def _costs(results: Sequence[Result], values: int, hospitals: int) -> Table:
    table = _table(f"{values:,} values, {hospitals} hospitals")
    table.add_column("setting", no_wrap=True)
    for heading in ("upload\ns", "coord.\ns", "downl.\ns", "total\ns"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("up\nB/val", "down\nB/val", "error", "coord.\nMiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        mark = "*" if r.figures == "extrapolated" else ""
        seconds = [r.of(side) for side in ("upload", "coordinator", "download")] + [r.critical_path_s]
        cells = [_setting(r), *map(_seconds, seconds)]
        cells[-1] += mark
        cells += [f"{r.up_bytes_per_value:.2f}", f"{r.down_bytes_per_value:.2f}"]
        cells += [NOTHING if r.max_error is None else f"{r.max_error:.0e}"]
        cells += [NOTHING if r.coordinator_peak_mib is None else f"{r.coordinator_peak_mib:.0f}"]
        table.add_row(*map(Text, cells))
    if any(r.figures == "extrapolated" for r in results):
        table.caption = "* extrapolated, not measured"
    return table


def _ratios(results: Sequence[Result]) -> Table:
    """Our settings against each yardstick of the same transport; below one we cost less."""
    table = _table("ours divided by")
    table.add_column("setting", no_wrap=True)
    yardsticks = list(dict.fromkeys(r.system for r in results if r.system != OURS))
    for system in yardsticks:
        table.add_column(f"{system.split()[0].split('-')[0]}\ntime", justify="right", no_wrap=True)
        table.add_column("\nbytes", justify="right", no_wrap=True)
    paired = any(r.over_no_masks for r in results)
    if paired:
        table.add_column("no masks\ntime", justify="right", no_wrap=True)
    for ours in results:
        if ours.system != OURS:
            continue
        rivals = {r.system: r for r in results if r.transport == ours.transport and r.system != OURS}
        if not rivals and ours.over_no_masks is None:
            continue
        cells = [_setting(ours)]
        for system in yardsticks:
            cells.append(_ratio(ours, rivals.get(system), lambda r: r.critical_path_s))
            cells.append(_ratio(ours, rivals.get(system), lambda r: r.up_bytes_per_value))
        if paired:
            cells.append(NOTHING if ours.over_no_masks is None else f"{ours.over_no_masks:.2f}")
        table.add_row(*map(Text, cells))
    return table


def _seconds(seconds: float) -> str:
    """Milliseconds where they matter, and never more than six characters."""
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"


def _ratio(ours: Result, other: Result | None, of: Callable[[Result], float]) -> str:
    if other is None or not of(other):
        return NOTHING
    return f"{of(ours) / of(other):.3g}"


def _setting(result: Result) -> str:
    """As few words as tell the settings of a table apart."""
    words = [result.system.removesuffix(" float32")]
    if result.profile is not None:
        words = [result.profile, "" if result.masks == "none" else "masked"]
    words.append("gRPC" if result.transport == "grpc" else "")
    return " ".join(word for word in words if word)


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
                 padding=0, caption_justify="left")  # fmt: skip
