"""``audit epsilon`` on ledgers of ten random histories, against dp-accounting run by nobody but this file.

The other side reads the ledger's JSON lines itself, knows nothing of this project's accountant, and lets
``PLDAccountant`` compose as it comes. Ours must be within 1 % of it and never below.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from ledgers import channels, open_ledger
from typer.testing import CliRunner

from secure_fedhelp.cli.audit import app
from secure_fedhelp.privacy.entries import ChannelRelease
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, Gaussian, PooledExact

#: dp-accounting's own interval, and a finer one for some of the histories.
DEFAULT, FINER = 1e-4, 5e-5


@dataclass(frozen=True)
class History:
    """A ledger of several studies and two data sets, and what it is to be stated at."""

    path: Path
    delta: float


def write_history(path: Path, seed: int) -> History:
    """Two or three studies: rounds of DP-SGD at rates, noises and steps of their own, and Gaussian answers between.

    Beside them what must not count: reservations, one given back, one left open, and exact counts without an epsilon.
    """
    draw = np.random.default_rng([2026, seed])
    delta = float(10.0 ** -draw.integers(4, 8))
    with open_ledger(path) as ledger:
        for study in range(int(draw.integers(2, 4))):
            place = {"study": str(study) * 64, "delta": delta, "dataset": "ab"[study % 2] * 64}
            training = DpSgd(
                sampling_rate=round(float(10 ** draw.uniform(-2, -0.5)), 4),
                noise_multiplier=round(float(10 ** draw.uniform(0.1, 0.8)), 3),
                clipping_norm=round(float(draw.uniform(0.5, 2)), 2),
                steps=int(draw.integers(5, 25)),
            )
            rounds = int(draw.integers(8, 14))
            for number in range(rounds):
                release(ledger, (training,), place, number)
            for number in range(rounds, rounds + int(draw.integers(0, 3))):
                noise, sensitivity = (round(float(v), 2) for v in draw.uniform((8, 1), (60, 3)))
                release(ledger, (Gaussian(noise_multiplier=noise, sensitivity=sensitivity),), place, number)
            ledger.void(ledger.reserve([training], round=90, **place))  # type: ignore[arg-type]
            ledger.reserve([training], round=91, **place)  # type: ignore[arg-type]
            release(ledger, (PooledExact(smallest_cohort=3),), place, 92)
    return History(path, delta)


def release(ledger: Ledger, events: tuple[Any, ...], place: dict[str, Any], number: int) -> None:
    ledger.reserve(events, round=number, **place)
    if isinstance(events[0], DpSgd):
        what = channels(number)
    else:
        what = [
            ChannelRelease(name="metrics", mechanism=events[0].kind, derived_from=("event:0",), values_sha256="0" * 64)
        ]
    ledger.release(events, round=number, channels=what, noise_source="system", **place)


def independent(history: History, interval: float) -> tuple[float, int]:
    """Epsilon by dp-accounting from the file's own words, and how many mechanisms were composed."""
    steps: Counter[tuple[float, float]] = Counter()
    for line in history.path.read_text().splitlines():
        entry = json.loads(line)["entry"]
        for event in entry["events"] if entry["kind"] == "release" else ():
            if event["kind"] == "dp-sgd":
                steps[(event["sampling_rate"], event["noise_multiplier"])] += event["steps"]
            elif event["kind"] == "gaussian":
                steps[(1.0, event["noise_multiplier"])] += 1
    accountant = PLDAccountant(value_discretization_interval=interval)
    for (rate, noise), count in steps.items():
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), count)
    return float(accountant.get_epsilon(history.delta)), steps.total()


def audited(path: Path, out: Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["epsilon", str(path), "--json", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (ledger,) = json.loads(out.read_bytes())["ledgers"]
    return dict(ledger)


@pytest.mark.parametrize("seed", range(10))
def test_epsilon_of_a_random_history_is_the_independent_one(seed: int, tmp_path: Path) -> None:
    history = write_history(tmp_path / "ledger.jsonl", seed)
    ours = audited(history.path, tmp_path / "epsilon.json")["total"]
    for interval in (DEFAULT, FINER)[: 2 if seed < 2 else 1]:
        theirs, count = independent(history, interval)
        assert count >= 200
        assert ours["delta"] == history.delta
        assert theirs <= ours["epsilon"] <= 1.01 * theirs
    assert ours["epsilon"] <= ours["epsilon_by_rdp"]
    assert ours["epsilon_with_reservations"] > ours["epsilon"]


def test_the_table_never_says_less_than_the_exact_figure(tmp_path: Path) -> None:
    history = write_history(tmp_path / "ledger.jsonl", 0)
    exact = audited(history.path, tmp_path / "epsilon.json")
    done = CliRunner().invoke(app, ["epsilon", str(history.path)], catch_exceptions=False, env={"COLUMNS": "80"})
    rows = [line.replace("alpha", "").split() for line in done.output.splitlines()]
    printed = {tuple(row[:2]): float(row[-3]) for row in rows if len(row) == 7 and row[2].isdigit()}
    figures = {(p["study"][:8], p["dataset"][:8]): p["epsilon"] for p in exact["parts"]}
    figures[("all", "all")] = exact["total"]["epsilon"]
    assert printed.keys() == figures.keys()
    assert all(figures[key] <= printed[key] < figures[key] + 1e-4 for key in figures)
    table, _, remarks = done.output.partition("NO DIFFERENTIAL PRIVACY: alpha, entry ")
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80
    assert remarks.count("NO DIFFERENTIAL PRIVACY") == len({p["study"] for p in exact["parts"]}) - 1
