"""Sweeps: what is asked for is done once, whatever happened in between, and every row says how to do it again."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet
from sweeps import STUDY, Counting, own, result, runs
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import DataChanged, InvalidConfiguration, InvalidData, InvalidPartition, StorageError
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import DEFAULTS, OWN, constants_sha256, study_plan
from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep import data_file
from secure_fedhelp.research.sweep.data_file import require_unchanged
from secure_fedhelp.research.sweep.engines import Outcome, attempt, processes
from secure_fedhelp.research.sweep.execute import execute
from secure_fedhelp.research.sweep.runs import REVISIONS, RIVALS, Run, expand, parse_epsilons, versions
from secure_fedhelp.research.sweep.statistics import difference, level, values
from secure_fedhelp.research.sweep.store import Store
from secure_fedhelp.research.sweep.sweep import sweep
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.methods import BUILT_IN, Prr

# -- identity ----------------------------------------------------------------------------------------------------------


def test_a_runs_identity_is_all_that_its_result_depends_on(tmp_path: Path) -> None:
    many = runs("fedhelp", "fedavg", "no-logits", "small-alone", "local-dp", epsilons=(1.0, 3.0))
    assert len({run.id for run in many}) == len(many) == 2 * 2 * 5
    moved = expand(STUDY, ["fedhelp"], [3.0], 1, False, tmp_path)[0]
    assert moved.id == runs("fedhelp", seeds=1)[0].id, "data may be moved"
    assert moved.id != runs("fedhelp", seeds=1, encrypted=True)[0].id
    longer = STUDY.model_copy(update={"rounds": 2})
    assert expand(longer, ["fedhelp"], [3.0], 1, False, None)[0].id != moved.id


@pytest.mark.parametrize("dataset", ["breast-cancer", "breast", None])
def test_a_plans_constants_that_a_release_changes_make_other_runs(
    dataset: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a folder would give results of an older learning rate for those of the new one, under the same name."""
    study = own(tmp_path) if dataset is None else STUDY.model_copy(update={"dataset": dataset})

    def named() -> str:
        return expand(study, ["fedhelp"], [3.0], 1, False, None)[0].id

    first, changed = named(), replace(DEFAULTS["breast"], learning=DEFAULTS["breast"].learning | {"warm_steps": 7})
    monkeypatch.setitem(DEFAULTS, "breast", changed)
    monkeypatch.setitem(OWN, "image", changed)
    assert (named() == first) == (dataset == "breast-cancer")


def test_a_data_file_of_ones_own_is_its_contents_and_not_its_place(tmp_path: Path) -> None:
    def named(study: StudyFile) -> str:
        return expand(study, ["local"], [3.0], 1, False, None)[0].id

    first = named(own(tmp_path / "one"))
    assert named(own(tmp_path / "two")) == first, "the same file elsewhere"
    assert named(own(tmp_path / "one", shift=1)) != first, "another file under the same name"
    assert named(own(tmp_path / "one")) == first
    (tmp_path / "one" / "own.csv").unlink()
    with pytest.raises(InvalidData, match="own.csv: No such file"):
        named(load_study(tmp_path / "one" / "study.toml"))


def test_code_of_ones_own_is_what_it_says_now_and_not_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever mends a method and starts the sweep again must not get the results of before."""
    monkeypatch.syspath_prepend(tmp_path)
    method = {"name": "imported", "path": "mended_code:Mine"}
    network = {"small": "mended_code:network", "large": "mlp-8"}
    found = []
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "mended_code.py").write_text(text)
        for named in ({"method": method}, {"model": network}, {}):
            study = StudyFile.model_validate({"name": "a", "dataset": "breast-cancer"} | named)
            found.append(Run(study, "imported", 3.0, False).id)
    assert len(set(found)) == 5, "only what imports nothing keeps its name"


def test_a_data_file_is_read_for_its_name_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, opened = own(tmp_path / "one"), []
    digest = data_file.hash_bounded
    monkeypatch.setattr(data_file, "hash_bounded", lambda path, kind: (opened.append(path), digest(path, kind))[1])
    many = expand(study, ["local", "public", "fedavg"], [1.0, 3.0], 5, False, None)
    assert len({run.id for run in many}) == 5 * 4
    assert len(opened) == 1


def test_a_data_file_that_changes_during_a_sweep_is_told_by_name(tmp_path: Path) -> None:
    before = own(tmp_path / "one")
    many = expand(before, ["local"], [3.0], 2, False, None)
    own(tmp_path / "one", shift=1)
    assert [attempt(run).error or "" for run in many] == [
        "DataChanged: own.csv has changed since this run was asked for: put it back, or start the sweep again"
    ] * 2
    own(tmp_path / "one")
    require_unchanged(many[0].study, many[0].data_sha256)


def test_a_file_that_changes_while_it_is_read_gives_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = expand(own(tmp_path / "one"), ["local"], [3.0], 1, False, None)

    def reads_and_changes(study: StudyFile, data_dir: Path | None) -> StudyData:
        data = study_data(study, data_dir)
        own(tmp_path / "one", shift=1)
        return data

    monkeypatch.setattr("secure_fedhelp.research.sweep.execute.study_data", reads_and_changes)
    with pytest.raises(DataChanged):
        execute(run)


def test_sections_that_a_study_does_not_have_leave_its_runs_their_names() -> None:
    """A section that did not exist when a run was done does not rename it."""
    (run,) = runs("fedhelp", seeds=1)
    values = {key: value for key, value in run.study.model_dump(mode="json").items() if value is not None}
    assert not values.keys() & {"public", "teacher", "privacy", "weights"}
    known = {"contender": "fedhelp", "encrypted": False, "epsilon": "3.0", "study": values, "versions": versions()}
    known["constants"] = constants_sha256(run.study)
    assert run.id == digest(known)[:16]
    for section in ({"public": {"records": 5}}, {"teacher": {"kind": "none"}}, {"weights": "uniform"}):
        other = StudyFile.model_validate(STUDY.model_dump() | section)
        assert expand(other, ["fedhelp"], [3.0], 1, False, None)[0].id != run.id


def test_a_part_that_nobody_can_deal_is_told_before_anything_is_run(tmp_path: Path) -> None:
    variants = {"variants": {"greedy": {"public": {"records": 5000}}}}
    study = StudyFile.model_validate(STUDY.model_dump() | variants)
    engine = Counting()
    with pytest.raises(InvalidPartition, match="asks for 5000 patients"):
        sweep(expand(study, ["fedhelp", "greedy"], [3.0], 1, False, None), tmp_path, engine)
    assert not engine.done


def test_rivals_that_spend_nothing_run_once_for_all_budgets() -> None:
    found = runs("local", "pooled", "local-dp", epsilons=(1.0, 3.0, 8.0), seeds=1)
    assert [(run.contender, run.epsilon) for run in found] == [
        ("local", math.inf), ("pooled", math.inf), ("local-dp", 1.0), ("local-dp", 3.0), ("local-dp", 8.0)]  # fmt: skip


def test_a_rival_pays_for_no_answers_that_only_a_method_gives() -> None:
    """PRR answers questions about records, which its training has to save for, and a rival answers none."""
    usual, file = (
        StudyFile(name="a", dataset="breast-cancer", method=method) for method in (None, Prr(aligned_from=1))
    )
    plans = []
    for study, contender in ((usual, "fedavg"), (file, "local-dp"), (file, "prr")):
        (run,) = expand(study, [contender], [3.0], 1, False, None)
        plans.append(study_plan(run.study, study_data(run.study, None)))
    fedavg, rival, prr = (plan.privacy["small"].noise_multiplier for plan in plans)
    assert rival == fedavg < prr


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    plain, less, alone = (runs(name, seeds=1)[0].study for name in ("fedhelp", "no-logits", "small-alone"))
    assert plain.method is None, "the data set's own"
    assert less.method.model_dump()["logits"] is False
    assert alone.hospitals == ("small-1", "small-2", "small-3")
    assert plain.model_copy(update={"method": less.method}) == less


@pytest.mark.parametrize(
    ("contenders", "epsilons", "encrypted", "reason"),
    [
        (["magic"], [3.0], False, "'magic'"),
        ([], [3.0], False, "needs a method"),
        (["fedhelp"], [math.inf], True, "epsilon inf"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    contenders: list[str], epsilons: list[float], encrypted: bool, reason: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=reason):
        expand(STUDY, contenders, epsilons, 1, encrypted, None)


def test_budgets_are_numbers_above_zero_or_inf() -> None:
    assert parse_epsilons("1, 2.5,inf,") == [1.0, 2.5, math.inf]
    for text in ("0", "-1", "nan", "three"):
        with pytest.raises(InvalidConfiguration, match="no number above 0"):
            parse_epsilons(text)


# -- going on ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_was_killed_goes_on_and_does_no_run_twice(tmp_path: Path) -> None:
    asked, first, second = runs("fedhelp", "fedavg", seeds=3), Counting(dies_after=4), Counting()
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tmp_path, first)
    assert len(list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))) == 4, (
        "what was done is in the tables already"
    )
    results = sweep(asked, tmp_path, second)
    assert sorted(first.done + second.done) == sorted(run.id for run in asked)
    assert [r.run for r in results] == [run.id for run in asked]
    third = Counting()
    sweep([*asked, *runs("no-logits", seeds=3)], tmp_path, third)
    assert len(third.done) == 3, "a wider sweep does what is new"


def test_a_run_that_failed_is_told_left_out_and_done_again(tmp_path: Path) -> None:
    told: list[Outcome] = []
    results = sweep(runs("fedhelp", "fedavg"), tmp_path, Counting(fails="fedavg"), told.append)
    assert {r.contender for r in results} == {"fedhelp"}
    assert [o.error for o in told if o.result is None] == ["InvalidData: broken"] * 2
    again = Counting()
    assert len(sweep(runs("fedhelp", "fedavg"), tmp_path, again)) == 4
    assert len(again.done) == 2


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    def nested(given: Sequence[Run]) -> Iterator[Outcome]:
        with pytest.raises(InvalidConfiguration, match="another sweep"):
            sweep(runs("fedavg"), tmp_path, Counting())
        yield from Counting()(given)

    assert len(sweep(runs("fedhelp"), tmp_path, nested)) == 2


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    asked = runs("fedhelp", seeds=1)
    sweep(asked, tmp_path, Counting())
    path = tmp_path / "runs" / f"{asked[0].id}.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StorageError, match=r"\.json is damaged"):
        sweep(asked, tmp_path, Counting())


def test_tables_are_written_every_ten_seconds_and_whatever_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    read: list[Path] = []
    tables, one = Store.write_tables, Store._read
    monkeypatch.setattr(Store, "write_tables", lambda self, rows: (written.append(len(rows)), tables(self, rows))[1])
    monkeypatch.setattr(Store, "_read", lambda self, path: (read.append(path), one(self, path))[1])
    ticks = iter(range(0, 300, 3))  # the clock is asked after every run
    with pytest.raises(KeyboardInterrupt):
        sweep(runs("fedhelp", seeds=20), tmp_path, Counting(dies_after=9), clock=lambda: float(next(ticks)))
    assert written == [4, 8, 9], "tables of ten seconds and more, and the last ones"
    assert read == [], "no result is read again"
    assert (tmp_path / "report.html").exists()


def test_what_an_earlier_call_asked_for_stays_and_tables_are_of_the_last(tmp_path: Path) -> None:
    first, last = runs("fedhelp", seeds=2), runs("fedavg", seeds=1)
    sweep(first, tmp_path, Counting())
    sweep(last, tmp_path, Counting())
    asked = json.loads((tmp_path / "asked.json").read_text())
    assert [entry["run"] for entry in asked] == [run.id for run in first + last]
    rows = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert [row["contender"] for row in rows] == ["fedavg"]
    assert Store(tmp_path).others(last) == 2
    assert Store(tmp_path).others(first + last) == 0
    (tmp_path / "asked.json").write_text("[{]")
    with pytest.raises(StorageError, match=r"asked\.json is damaged"):
        sweep(first, tmp_path, Counting())


@pytest.mark.parametrize("rival", ["local", "local-dp", "pooled"])
def test_a_variant_with_a_rivals_name_is_refused_by_name(rival: str) -> None:
    study = StudyFile.model_validate(STUDY.model_dump() | {"variants": {rival: {"weights": "uniform"}}})
    with pytest.raises(InvalidConfiguration, match=rf"\[variants\.{rival}\] has the name of a rival"):
        expand(study, ["fedhelp"], [3.0], 1, False, None)


@pytest.mark.end
def test_a_killed_process_leaves_whole_files_and_the_next_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text('name = "quick"\ndataset = "breast-cancer"\nrounds = 1\n', encoding="utf-8")
    out = tmp_path / "out"
    words = ["sweep", str(study), "--methods", "local,public", "--seeds", "3", "--jobs", "1", "--out", str(out)]
    started = subprocess.Popen([sys.executable, "-m", "secure_fedhelp", *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*.json")):
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}
    assert len(done) > 0
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("runs/*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in done} == done


# -- what a run says ---------------------------------------------------------------------------------------------------


def test_a_row_says_how_to_run_it_again_in_both_formats(tmp_path: Path) -> None:
    (run,) = runs("no-logits", seeds=1)
    done = execute(run)
    store = Store(tmp_path)
    store.keep(done)
    store.write_tables(store.results([run]))
    (row,) = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert (row["contender"], row["epsilon"], row["seed"], row["encryption"]) == ("no-logits", "3", "1", "none")
    assert json.loads(row["method"])["logits"] is False
    assert len(row["plan_sha256"]) == 64
    assert "torch 2" in row["versions"]
    assert 2.9 < float(row["epsilon_spent"]) <= 3.0
    assert 0 <= float(row["small_personal_auroc"]) <= 1
    (table,) = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert {key: str(value) for key, value in table.items()} == row
    assert len(parquet.read_table(tmp_path / "hospitals.parquet")) == 12, "two models at six hospitals"
    assert execute(run).hospitals == done.hospitals, "the same again"


def test_without_privacy_there_is_no_epsilon_and_every_rival_has_its_figures() -> None:
    (run,) = runs("fedavg", epsilons=(math.inf,), seeds=1)
    done = execute(run)
    assert (done.epsilon, done.epsilon_spent, done.encryption) == ("inf", None, "none")
    for rival in RIVALS:
        found = execute(runs(rival, seeds=1)[0])
        assert [h.model for h in found.hospitals] == [rival] * 6
        assert found.encryption == "not needed"


def test_a_rival_reports_what_its_steps_spent_where_no_hospital_is_small() -> None:
    """All of the budget, where the study's also pays for a method's answers: nobody gives those alone."""
    answering = {"name": "prr", "gaussian_prototypes": True}
    large = {"hospitals": ["large-1", "large-2", "large-3"], "method": answering}
    study = StudyFile.model_validate(STUDY.model_dump(exclude={"variants"}) | large)
    (run,) = expand(study, ["local-dp"], [3.0], 1, False, None)
    done = execute(run)
    plan = study_plan(run.study.model_copy(update={"epsilon": 3.0}), study_data(study, None))
    part = plan.privacy["large"]
    steps = DpSgd(sampling_rate=part.sampling_rate, noise_multiplier=part.noise_multiplier,
                  clipping_norm=part.clipping_norm, steps=part.steps)  # fmt: skip
    assert {h.tier for h in done.hospitals} == {"large"}
    assert done.epsilon_spent == pytest.approx(epsilon([steps], part.delta))
    assert 2.997 < done.epsilon_spent <= 3.0


def test_an_error_of_a_run_becomes_words_and_processes_give_all_outcomes(tmp_path: Path) -> None:
    lost = expand(STUDY.model_copy(update={"dataset": "heart"}), ["public"], [3.0], 1, False, tmp_path)
    assert (attempt(lost[0]).error or "").startswith(InvalidData.__name__)
    outcomes = list(processes([*lost, *runs("public", seeds=1)], jobs=2))
    assert {o.run.study.dataset: o.result is None for o in outcomes} == {"heart": True, "breast-cancer": False}


def test_differences_are_paired_by_seed_over_the_seeds_that_both_have() -> None:
    some = [result(run, auroc) for run, auroc in zip(runs("fedhelp", seeds=3), (0.7, 0.8, 0.9), strict=True)]
    others = [result(run, auroc) for run, auroc in zip(runs("fedavg", seeds=2), (0.6, 0.7), strict=True)]
    one = values(some + others, "fedhelp", "3", "small", "personal", "auroc")
    two = values(some + others, "fedavg", "3", "small", "personal", "auroc")
    assert level(one).mean == pytest.approx(0.8)
    found = difference(one, two)
    assert found is not None
    assert (found.mean, found.deviation) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12))
    assert difference(one, {}) is None


def test_a_method_of_ones_own_that_the_study_file_names_can_be_swept() -> None:
    method = {"name": "imported", "path": "worked_example:AnswersOnly"}
    study = StudyFile.model_validate({"name": "own", "dataset": "breast-cancer", "method": method})
    with pytest.raises(InvalidConfiguration, match="called 'imported'"):
        expand(STUDY, ["imported"], [3.0], 1, False, None)
    (mine, theirs) = expand(study, ["imported", "fedavg"], [3.0], 1, False, None)
    assert mine.study.method == study.method
    assert theirs.study.method is not None
    assert theirs.study.method.name == "fedavg"


def test_a_variant_called_as_a_method_is_of_that_method() -> None:
    study = StudyFile.model_validate(STUDY.model_dump() | {"variants": {"fedavg": {"learning": {"warm_steps": 2}}}})
    (run,) = expand(study, ["fedavg"], [3.0], 1, False, None)
    assert run.study.method is not None
    assert run.study.method.name == "fedavg"
    assert run.study.learning["warm_steps"] == 2


def test_budgets_that_look_alike_are_two_runs() -> None:
    assert len(runs("fedavg", epsilons=(1.0, 1.0000004), seeds=1)) == 2


def test_code_that_makes_something_else_of_a_contender_gives_its_runs_another_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Versions and constants stay the same from one commit to the next, and what is computed may not."""
    before = {run.contender: run.id for run in runs("fedavg", "local", seeds=1)}
    monkeypatch.setitem(REVISIONS, "fedavg", 7)
    after = {run.contender: run.id for run in runs("fedavg", "local", seeds=1)}
    assert after["fedavg"] != before["fedavg"]
    assert after["local"] == before["local"]
    assert REVISIONS.keys() <= {*RIVALS, *BUILT_IN}


def test_one_seed_that_cannot_be_dealt_costs_its_own_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rare class that is in nobody's public part under one seed must not keep the other seeds from being run."""

    def dealt(study: StudyFile, data_dir: Path | None, files: object) -> StudyData:
        if study.seed in broken:
            raise InvalidPartition(f"seed {study.seed}")
        return study_data(study, data_dir)

    broken, engine, told = {1}, Counting(), list[Outcome]()
    monkeypatch.setattr("secure_fedhelp.research.sweep.before.study_data", dealt)
    assert len(sweep(runs("fedavg", "fedhelp", seeds=3), tmp_path, engine, told.append)) == 4
    assert [(o.run.study.seed, o.error) for o in told if o.error] == [(1, "InvalidPartition: seed 1")] * 2
    assert len(engine.done) == 4, "what cannot be done is not begun"
    broken.update({2, 3})
    with pytest.raises(InvalidPartition, match=r"seed 1 \(fedavg\): seed 1; seed 2 \(fedavg\): seed 2; seed 3"):
        sweep(runs("fedavg", seeds=3), tmp_path / "all", Counting())


def test_runs_are_forgotten_under_the_lock_alone(tmp_path: Path) -> None:
    """Else a second call would take away what a sweep at work has done, before it is told that there is one."""

    def nested(given: Sequence[Run]) -> Iterator[Outcome]:
        done = Counting()(given)
        yield next(done)
        with pytest.raises(InvalidConfiguration, match="another sweep"):
            sweep(runs("fedavg"), tmp_path, Counting(), anew=True)
        assert len(list((tmp_path / "runs").glob("*.json"))) == 1
        yield from done

    assert len(sweep(runs("fedavg"), tmp_path, nested)) == 2
    again = Counting()
    assert len(sweep(runs("fedavg"), tmp_path, again, anew=True)) == 2
    assert len(again.done) == 2
