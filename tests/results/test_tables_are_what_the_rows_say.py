"""docs/results.md: every figure in a table comes from a kept row, and the rows from runs that anybody can repeat."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from sweeps import STUDY, result
from typer.testing import CliRunner

from secure_fedhelp.research.sweep.execute import HospitalResult
from secure_fedhelp.research.sweep.runs import expand

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """benchmarks/results.py with a document and rows of its own."""
    module = _load()
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(module, "DOCUMENT", tmp_path / "results.md")
    monkeypatch.setattr(module, "HERE", tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "results.toml").write_text("part = []\n")
    return module


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_benchmark", ROOT / "benchmarks" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def keep(results: ModuleType, part: str, **series: list[float]) -> None:
    """One row a seed for each contender, with a small tier's shared AUROC (a rival's own)."""
    rows = []
    for name, values in series.items():
        name = name.replace("_", "-")
        model = name if name in ("local", "local-dp") else "shared"
        epsilon = "inf" if name == "local" else "3"
        for seed, value in enumerate(values, 1):
            about = {"run": f"{name}{seed}", "contender": name, "epsilon": epsilon, "seed": seed, "seconds": 2.0}
            rows.append(about | {f"small_{model}_auroc": value})
    results.keep(part, rows)


def test_the_document_in_the_repository_is_what_its_rows_fill_in() -> None:
    module = _load()
    text = module.DOCUMENT.read_text()
    assert module.filled(text) == text, "python benchmarks/results.py tables"


@pytest.mark.parametrize("part", sorted(path.stem for path in (ROOT / "docs" / "results").glob("*.csv")))
def test_kept_rows_are_of_the_studies_that_are_asked_for_now(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study file that is changed makes other runs: figures of the old ones must not stand under its name."""
    module = _load()
    rows = module.kept(part)
    (made_with,) = {row["versions"] for row in rows}
    monkeypatch.setattr("secure_fedhelp.research.sweep.runs.versions", lambda: made_with)
    asked = {run.id for run in module.parts()[part].runs(Path("data"))}
    assert {row["run"] for row in rows} <= asked, "run the part again: make results"


def test_every_part_can_be_expanded_and_no_two_have_one_name() -> None:
    module = _load()
    with (ROOT / "benchmarks" / "results.toml").open() as file:
        assert len(module.parts()) == file.read().count("[[part]]")
    for part in module.parts().values():
        assert part.runs(Path("data"))


def test_a_gain_is_the_paired_t_interval(results: ModuleType) -> None:
    ours, theirs = [0.9, 0.85, 0.88, 0.91, 0.87], [0.8, 0.84, 0.8, 0.83, 0.86]
    keep(results, "x", fedhelp=ours, local_dp=theirs)
    found = results.gain("x", "fedhelp:shared", "local-dp", "small", "auroc")
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    mean = float(np.mean(np.subtract(ours, theirs)))
    assert found == f"**{mean:+.3f} [{low:+.3f}, {high:+.3f}]**"


def test_patients_who_are_dealt_again_and_again_are_no_new_patients(results: ModuleType, tmp_path: Path) -> None:
    """Nadeau and Bengio's correction: with twenty splits of the same people an interval must not shrink by sqrt(20)."""
    (tmp_path / "results.toml").write_text(
        '[dealt_anew]\n"tiny.toml" = 0.4\n[[part]]\nname = "tiny"\nstudy = "tiny.toml"\nmethods = "fedavg"\n'
    )
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.9, 0.02, 20).tolist(), rng.normal(0.8, 0.02, 20).tolist()
    keep(results, "tiny", fedhelp=ours, local_dp=theirs)
    differences = np.subtract(ours, theirs)
    half = stats.t.ppf(0.975, 19) * math.sqrt((1 / 20 + 0.4) * differences.var(ddof=1))
    expected = f"[{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"
    assert expected in results.gain("tiny", "fedhelp:shared", "local-dp", "small", "auroc")
    keep(results, "other", fedhelp=ours, local_dp=theirs)
    assert expected not in results.gain("other", "fedhelp:shared", "local-dp", "small", "auroc")


def test_a_hospital_has_its_own_rows_beside_its_tiers_mean(results: ModuleType) -> None:
    (run,) = expand(STUDY, ["fedavg"], [3.0], 1, False, None)
    judged = [("large-1", "large", 0.9), ("large-2", "large", 0.7), ("small-1", "small", 0.6)]
    hospitals = tuple(
        HospitalResult(name, tier, "shared", {"auroc": value, "ece": 0.1}) for name, tier, value in judged
    )
    results.keep("x", [results.row_of(result(run, hospitals=hospitals))])
    found = [results.level("x", "fedavg:shared", who, "auroc") for who in ("large-1", "large-2", "large", "small")]
    assert found == ["0.900", "0.700", "0.800", "0.600"]
    assert results.level("x", "fedavg:shared", "small", "ece") == "0.100"
    assert results.level("x", "fedavg:shared", "large-1", "ece") == "–", "one figure a hospital is enough"
    (_, *rows) = results.each("x", "large-1,small-1", "fedavg:shared/fedavg:shared", "auroc")
    assert rows == [["x large-1", "+0.000 (one seed)"], ["x small-1", "+0.000 (one seed)"]]


def test_a_gain_that_is_not_shown_is_not_bold(results: ModuleType) -> None:
    keep(results, "x", fedhelp=[0.9, 0.8], local_dp=[0.8, 0.9])
    assert results.gain("x", "fedhelp:shared", "local-dp", "small", "auroc").startswith("+0.000 [")


def test_what_privacy_costs_is_one_contender_at_two_epsilons(results: ModuleType) -> None:
    rows = [
        {"contender": "fedhelp", "epsilon": epsilon, "seed": seed, "small_shared_auroc": value + 0.01 * seed}
        for epsilon, value in (("1", 0.7), ("3", 0.75), ("inf", 0.8))
        for seed in (1, 2, 3)
    ]
    results.keep("x", rows)
    heading, row = results.gains(
        "x", "fedhelp:shared@inf/fedhelp:shared@1,fedhelp:shared@3/fedhelp:shared", "small", "auroc"
    )
    assert heading == ["", "fedhelp shared: no privacy − epsilon 1", "fedhelp shared, epsilon 3 − fedhelp shared"]
    assert row == ["x", "**+0.100 [+0.100, +0.100]**", "+0.000 [+0.000, +0.000]"]


def test_only_seeds_that_both_have_are_compared(results: ModuleType) -> None:
    keep(results, "x", fedhelp=[0.9, 0.8, 0.1], local_dp=[0.8, 0.7])
    found = results.gain("x", "fedhelp:shared", "local-dp", "small", "auroc")
    assert found.startswith("**+0.100 [")
    assert found.endswith("** (2 of 3 seeds)"), "a seed that failed must not go unseen"
    assert results.level("x", "local-dp", "small", "auroc") == "0.750 ± 0.071 (2 of 3 seeds)"


def test_what_was_not_measured_is_a_dash(results: ModuleType) -> None:
    assert results.gain("nothing", "fedhelp:shared", "local-dp", "small", "auroc") == "–"
    assert results.level("nothing", "fedhelp:shared", "small", "auroc") == "–"


def test_what_was_sent_stands_beside_its_share(results: ModuleType) -> None:
    rows = [{"contender": name, "bytes_up": sent} for name, sent in (("fedavg", 2e6), ("half", 1e6))]
    results.keep("x", [row | {"epsilon": "3", "seed": 1} for row in rows])
    assert results.sent("x", "fedavg")[1:] == [["fedavg", "2.000", "1.000"], ["half", "1.000", "0.500"]]


def test_a_rival_that_spends_nothing_stands_beside_every_epsilon(results: ModuleType) -> None:
    keep(results, "x", local=[0.7, 0.8])
    assert results.level("x", "local", "small", "auroc", epsilon="1") == "0.750 ± 0.071"


def test_a_run_fills_the_document_and_keeps_rows_that_fill_it_again(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results.toml").write_text(
        '[[part]]\nname = "tiny"\nstudy = "tiny.toml"\nmethods = "fedavg,local-dp"\nseeds = 2\nepsilon = "3,inf"\n'
        "change = { learning = { warm_steps = 1, public_steps = 1, pupil_steps = 1, personal_steps = 1 } }\n"
    )
    (tmp_path / "studies" / "tiny.toml").write_text('name = "t"\ndataset = "breast-cancer"\nrounds = 1\n')
    marker = "<!-- table: {} -->\nold\n<!-- end -->\n"
    asked = ("levels tiny fedavg:shared,local-dp small auroc", "gains tiny fedavg:shared/local-dp small auto", "time")
    results.DOCUMENT.write_text("before\n" + "".join(map(marker.format, asked)) + "after\n")
    out, command = tmp_path / "out", ["run", "--data-dir", str(tmp_path), "--jobs", "1"]
    done = CliRunner().invoke(results.app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "tiny: 8 runs, 8 left" in done.output
    text = results.DOCUMENT.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| tiny | 8 |" in text
    with (results.KEPT / "tiny.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8
    again = CliRunner().invoke(results.app, [*command, "--out", str(out)])
    assert "tiny: 8 runs, 0 left" in again.output
    some = CliRunner().invoke(results.app, [*command, "--out", str(out), "--epsilon", "3", "--seeds", "1"])
    assert "tiny: 2 runs, 0 left" in some.output
    assert results.DOCUMENT.read_text() == text


def test_a_trial_of_a_few_seeds_does_not_replace_what_is_kept(results: ModuleType, tmp_path: Path) -> None:
    learning = "{ learning = { warm_steps = 1, public_steps = 1, pupil_steps = 1, personal_steps = 1 } }"
    (tmp_path / "results.toml").write_text(
        f'[[part]]\nname = "tiny"\nstudy = "tiny.toml"\nmethods = "local-dp"\nseeds = 2\nchange = {learning}\n'
    )
    (tmp_path / "studies" / "tiny.toml").write_text('name = "t"\ndataset = "breast-cancer"\nrounds = 1\n')
    results.DOCUMENT.write_text("")
    results.keep("tiny", [{"contender": "a", "epsilon": "3", "seed": n} for n in range(5)])
    command = ["run", "--data-dir", str(tmp_path), "--jobs", "1", "--out", str(tmp_path / "out"), "--seeds", "1"]
    done = CliRunner().invoke(results.app, command)
    assert "5 runs are kept" in done.output
    assert len(results.kept("tiny")) == 5
    CliRunner().invoke(results.app, [*command, "--replace"])
    assert len(results.kept("tiny")) == 1


def test_what_is_kept_is_not_run_again_on_another_machine(results: ModuleType, tmp_path: Path) -> None:
    """Days of runs are done in pieces, where there is time: rows are enough to go on from, and stay as they are."""
    learning = "{ learning = { warm_steps = 1, public_steps = 1, pupil_steps = 1, personal_steps = 1 } }"
    (tmp_path / "results.toml").write_text(
        f'[[part]]\nname = "tiny"\nstudy = "tiny.toml"\nmethods = "local-dp,public"\nseeds = 2\nchange = {learning}\n'
    )
    (tmp_path / "studies" / "tiny.toml").write_text('name = "t"\ndataset = "breast-cancer"\nrounds = 1\n')
    results.DOCUMENT.write_text("")
    command = ["run", "--data-dir", str(tmp_path), "--jobs", "1", "--out"]
    CliRunner().invoke(results.app, [*command, str(tmp_path / "here"), "--seeds", "1"])
    first = (results.KEPT / "tiny.csv").read_text().splitlines()
    assert len(first) == 3
    stale = [row | {"run": "of a study that was changed"} for row in results.kept("tiny")[:1]]
    results.keep("tiny", [*results.kept("tiny"), *stale])
    there = CliRunner().invoke(results.app, [*command, str(tmp_path / "there"), "--missing"])
    assert there.exit_code == 0, there.output
    assert "tiny: 2 runs, 2 left" in there.output
    rows = (results.KEPT / "tiny.csv").read_text().splitlines()
    assert len(rows) == 5
    assert set(first) < set(rows)
    again = CliRunner().invoke(results.app, [*command, str(tmp_path / "elsewhere"), "--missing"])
    assert again.exit_code == 0, again.output
    assert "tiny: 0 runs, 0 left" in again.output
    assert (results.KEPT / "tiny.csv").read_text().splitlines() == rows
    both = CliRunner().invoke(results.app, [*command, str(tmp_path / "here"), "--missing", "--replace"])
    assert both.exit_code == 2


def test_a_part_whose_data_are_missing_is_named_and_the_others_are_run(results: ModuleType, tmp_path: Path) -> None:
    parts = "".join(
        f'[[part]]\nname = "{name}"\nstudy = "{name}.toml"\nmethods = "public"\nseeds = 1\n'
        for name in ("gone", "here")
    )
    (tmp_path / "results.toml").write_text(parts)
    for name, dataset in (("gone", "heart"), ("here", "breast-cancer")):
        (tmp_path / "studies" / f"{name}.toml").write_text(f'name = "{name}"\ndataset = "{dataset}"\nrounds = 1\n')
    results.DOCUMENT.write_text("")
    command = ["run", "--data-dir", str(tmp_path), "--jobs", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(results.app, command)
    assert done.exit_code == 1
    assert "gone: left out" in done.output
    assert len(results.kept("here")) == 1


def test_a_part_nobody_knows_is_refused(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results.toml").write_text('[[part]]\nname = "tiny"\nstudy = "tiny.toml"\nmethods = "fedavg"\n')
    done = CliRunner().invoke(results.app, ["run", "--data-dir", str(tmp_path), "--only", "huge"])
    assert done.exit_code != 0
    assert "tiny" in done.output


def test_the_parts_are_the_same_runs_whoever_asks(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "studies" / "tiny.toml").write_text('name = "t"\ndataset = "breast-cancer"\n')
    part = results.Part(name="tiny", study="tiny.toml", methods="fedavg", change={"rounds": 3}, seeds=3)
    one, two = part.runs(tmp_path), part.runs(tmp_path, 2)
    assert [run.id for run in one][: len(two)] == [run.id for run in two]
    assert {run.study.rounds for run in one} == {3}
    assert expand(one[0].study, ["fedavg"], [3.0], 1, False, None)[0].id == one[0].id
