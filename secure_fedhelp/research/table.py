"""The final table on a terminal, by hospital: privacy spent, bytes, and four models.

It takes the first layout that fits the width it is given: one line a hospital, two lines, or two stacked tables. No
cell wraps; a name that is too long is cut with an ellipsis. Values are put in as :class:`~rich.text.Text`, never as
markup, so that a name cannot style or forge the table.
"""

from __future__ import annotations

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from secure_fedhelp.research import wording
from secure_fedhelp.research.summary import HospitalSummary, MetricsSummary, Summary

#: Longer names are cut to this many characters.
LONGEST_NAME = 20


def print_table(summary: Summary, console: Console) -> None:
    """Print the table of results and the plain sentences that go with it."""
    console.print(ResultsTable(summary))
    for line in _facts(summary):
        console.print(Text(line, style="dim"))
    console.print()
    for sentence in wording.sentences(summary):
        console.print(Text(sentence))
    if (caveat := wording.caveat(summary)) is not None:
        console.print(Text(caveat, style="dim"))


class ResultsTable:
    """A Rich renderable that picks its layout when it is told the width."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in (self._one_line(), self._two_lines()):
            if Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width:
                yield table
                return
        yield self._costs()
        yield self._models()

    def _one_line(self) -> Table:
        table = _table(f"{self._summary.study}: results by hospital (models: AUROC / balanced accuracy)")
        table.add_column("hospital")
        table.add_column("tier")
        for heading in ("patients", "ε of\nbudget", "sent", "×\nfloat32", "received"):
            table.add_column(heading, justify="right")
        _model_columns(table)
        for h in self._summary.hospitals:
            spent = f"{wording.epsilon(h.epsilon)} / {wording.epsilon(h.epsilon_budget)}"
            traffic = (wording.size(h.bytes_up), wording.factor(h.float32_factor), wording.size(h.bytes_down))
            cells = (_name(h), h.tier, wording.count(h.patients), spent, *traffic)
            table.add_row(
                *map(Text, cells), *(_figures(wording.metrics(h, key), " / ") for key, _, _ in wording.MODELS)
            )
        return self._with_public(table, 6, " / ")

    def _two_lines(self) -> Table:
        table = _table(f"{self._summary.study}: results by hospital (models: AUROC above balanced accuracy)")
        _cost_columns(table)
        _model_columns(table)
        for h in self._summary.hospitals:
            table.add_row(*_cost_cells(h), *(_figures(wording.metrics(h, key), "\n") for key, _, _ in wording.MODELS))
        return self._with_public(table, 3, "\n")

    def _costs(self) -> Table:
        table = _table(f"{self._summary.study}: privacy and traffic")
        _cost_columns(table)
        for h in self._summary.hospitals:
            table.add_row(*_cost_cells(h))
        return table

    def _models(self) -> Table:
        table = _table("models: AUROC above balanced accuracy")
        table.add_column("hospital")
        _model_columns(table)
        for h in self._summary.hospitals:
            table.add_row(Text(_name(h)), *(_figures(wording.metrics(h, key), "\n") for key, _, _ in wording.MODELS))
        return self._with_public(table, 0, "\n")

    def _with_public(self, table: Table, skipped: int, between: str) -> Table:
        """A last row for the model that needed no hospital, in the column of the shared one."""
        if self._summary.public_only is not None:
            table.add_section()
            cell = _figures(self._summary.public_only, between)
            table.add_row(Text("public only"), *[""] * skipped, "", "", cell, "")
        return table


def _table(title: str) -> Table:
    return Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip


def _cost_columns(table: Table) -> None:
    table.add_column("hospital\ntier, patients")
    for heading in ("ε spent\nof budget", "sent\n× float32", "received"):
        table.add_column(heading, justify="right")


def _cost_cells(hospital: HospitalSummary) -> tuple[Text, ...]:
    return (
        _pair(_name(hospital), f"{hospital.tier}, {wording.count(hospital.patients)}", "\n"),
        _pair(wording.epsilon(hospital.epsilon), f"of {wording.epsilon(hospital.epsilon_budget)}", "\n"),
        _pair(wording.size(hospital.bytes_up), wording.factor(hospital.float32_factor), "\n"),
        Text(wording.size(hospital.bytes_down)),
    )


def _model_columns(table: Table) -> None:
    for _, heading, _ in wording.MODELS:
        table.add_column(heading.replace(", ", ",\n"), justify="right")


def _name(hospital: HospitalSummary) -> str:
    """The name, with a mark if the hospital was not in every sum; the sentences below say why."""
    name = hospital.name
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 1] + "…"
    return name if hospital.status == "contributed" else f"{name} *"


def _figures(metrics: MetricsSummary | None, between: str) -> Text:
    if metrics is None:
        return Text(wording.NOTHING)
    return _pair(wording.share(metrics.auroc), wording.share(metrics.balanced_accuracy), between)


def _pair(first: str, second: str, between: str) -> Text:
    return Text.assemble(first, (f"{between}{second}", "dim"))


def _facts(summary: Summary) -> list[str]:
    a = summary.aggregation
    deltas = sorted({f"{h.delta:g}" for h in summary.hospitals})
    rounds = f"{summary.rounds} round{'s' * (summary.rounds != 1)}"
    facts = [
        f"{rounds} in {wording.duration(summary.wall_seconds)}; δ {' and '.join(deltas)} per patient; "
        f"profile {a.profile}: {a.up_bytes_per_value:.1f} bytes a value up and {a.down_bytes_per_value:.1f} down "
        f"(float32: 4), largest error of a sum {a.max_error:.1e}"
    ]
    if any(h.status != "contributed" for h in summary.hospitals):
        facts.append("* not in every sum")
    return facts
