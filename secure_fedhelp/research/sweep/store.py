"""A sweep's folder: every finished run as a file of its own, and the tables made of them.

    runs/ID.json                one finished run (execute.RunResult)
    results.csv  .parquet       one row a run: how to run it again, and the means over each tier's hospitals
    hospitals.csv  .parquet     one row a hospital and model of each run

A run's file is written at once and whole, so what is there is done, whenever the sweep was killed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from secure_fedhelp.errors import StorageError
from secure_fedhelp.research.sweep.execute import HospitalResult, RunResult
from secure_fedhelp.research.sweep.runs import Run
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import RESULTS, read_bounded

_RESULT: TypeAdapter[RunResult] = TypeAdapter(RunResult)
Row = dict[str, Any]


class Store:
    """The folder of one sweep. Raises StorageError if it cannot be read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create {folder}: {error.strerror}", "Choose another --out.") from error

    def done(self, run: Run) -> bool:
        return self._path(run.id).exists()

    def others(self, runs: Sequence[Run]) -> int:
        """How many finished runs there are beside ``runs``."""
        asked = {run.id for run in runs}
        return sum(path.stem not in asked for path in (self.folder / "runs").glob("*.json"))

    def keep(self, result: RunResult) -> None:
        write_atomic(self._path(result.run), json.dumps(asdict(result), sort_keys=True, indent=1).encode())

    def forget(self, runs: Sequence[Run]) -> None:
        """What is known of ``runs`` goes, so that they are done again."""
        for run in runs:
            self._path(run.id).unlink(missing_ok=True)

    def results(self, runs: Sequence[Run]) -> list[RunResult]:
        """Those of ``runs`` that are finished, in their order."""
        return [self._read(self._path(run.id)) for run in runs if self.done(run)]

    def write_tables(self, results: Sequence[RunResult]) -> None:
        """``results`` and ``hospitals`` as CSV and Parquet."""
        self._write("results", [run_row(result) for result in results])
        self._write("hospitals", [row for result in results for row in hospital_rows(result)])

    def _path(self, run: str) -> Path:
        return self.folder / "runs" / f"{run}.json"

    def _read(self, path: Path) -> RunResult:
        try:
            return _counted(_RESULT.validate_json(read_bounded(path, RESULTS)))
        except (OSError, ValidationError) as error:
            raise StorageError(f"{path} is damaged", "Delete this file: the sweep does the run again.") from error

    def _write(self, name: str, rows: list[Row]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.folder / f"{name}.csv", text.getvalue().encode())
        table = pa.table({column: [row.get(column) for row in rows] for column in columns})
        buffer = pa.BufferOutputStream()
        parquet.write_table(table, buffer)
        write_atomic(self.folder / f"{name}.parquet", buffer.getvalue().to_pybytes())


def _counted(result: RunResult) -> RunResult:
    """Without figures on own patients of whom nobody knows how many they are: so an earlier version kept them."""
    hospitals = (
        h if h.home else replace(h, metrics={k: v for k, v in h.metrics.items() if not k.startswith("home_")})
        for h in result.hospitals
    )
    return replace(result, hospitals=tuple(hospitals))


def run_row(result: RunResult) -> Row:
    """One row of the table of runs: what it was, and ``TIER_MODEL_METRIC`` means over hospitals."""
    row = {key: value for key, value in asdict(result).items() if key not in ("hospitals", "cohort", "untrained")}
    for tier in sorted({h.tier for h in result.hospitals}):
        for model in dict.fromkeys(h.model for h in result.hospitals):
            for metric, value in tier_means(result, tier, model).items():
                row[f"{tier}_{model}_{metric}"] = value
    return row


def tier_means(result: RunResult, tier: str, model: str) -> dict[str, float]:
    """Each metric's mean over those of a tier's hospitals that have it; empty if the run has no such model there."""
    found = [h.metrics for h in result.hospitals if (h.tier, h.model) == (tier, model)]
    names = dict.fromkeys(metric for metrics in found for metric in metrics)
    return {name: float(np.mean([metrics[name] for metrics in found if name in metrics])) for name in names}


def hospital_rows(result: RunResult) -> list[Row]:
    about = {k: getattr(result, k) for k in ("run", "contender", "epsilon", "seed", "encryption")}
    return [
        about | {"hospital": h.hospital, "tier": h.tier, "model": h.model} | h.metrics | _home(h)
        for h in result.hospitals
    ]


def _home(result: HospitalResult) -> Row:
    """How many patients a figure on the hospital's own ones is of; nothing where there is no such figure."""
    if result.home is None or not any(name.startswith("home_") for name in result.metrics):
        return {}
    return {"home_patients": result.home.patients, "home_classes": json.dumps(result.home.classes)}
