"""A hospital that could not take part is named before anything runs; nobody waits for it, and all else is done."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from clinics import PARTS, Row, patients, study, write
from html_pages import require_readable_aloud, require_self_contained
from rich.console import Console
from sweeps import Counting
from typer.testing import CliRunner, Result

from secure_fedhelp.cli.main import app
from secure_fedhelp.data.checks import check_records
from secure_fedhelp.errors import FedHelpError, InvalidPartition, OneClassOnly, TooFewPatients, UnderQuorum
from secure_fedhelp.research.demo_setup import create_run_folder
from secure_fedhelp.research.fitness import require_fit, unfit_hospitals
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.simulation import run_simulation
from secure_fedhelp.research.sweep.before import look_ahead
from secure_fedhelp.research.sweep.execute import RunResult, execute
from secure_fedhelp.research.sweep.page import render
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.research.sweep.store import Store
from secure_fedhelp.research.sweep.sweep import sweep
from secure_fedhelp.research.waiting import Waiting

#: A variant without the clinic of one class.
THREE = '[variants.three]\nmethod = { name = "fedavg" }\nhospitals = ["north", "south", "east"]\n'
ONE_CLASS = "west: all records are of one class (well)"


def command(*words: str) -> tuple[Result, float]:
    started = time.monotonic()
    done = CliRunner().invoke(app, words)
    return done, time.monotonic() - started


@pytest.mark.end
def test_a_clinic_of_one_class_ends_a_simulation_and_a_sweep_by_name_and_all_others_are_done(tmp_path: Path) -> None:
    write(tmp_path, patients())
    study(tmp_path, more=THREE)
    file = str(tmp_path / "study.toml")
    done, seconds = command("simulate", file, "--out", str(tmp_path / "run"))
    assert isinstance(done.exception, OneClassOnly)
    assert ONE_CLASS in done.exception.message
    assert 'hospitals = ["east", "north", "south"]' in done.exception.hint
    assert seconds < 60
    assert not (tmp_path / "run").exists(), "nothing was begun"

    methods = "fedavg,three,local-dp,local,pooled,public"
    out = tmp_path / "sweep"
    words = ["sweep", file, "--methods", methods, "--seeds", "1", "--jobs", "1", "--out", str(out)]
    done, seconds = command(*words)
    assert done.exit_code == 1
    assert seconds < 60
    assert f"seed 1 (fedavg, local-dp, local): {ONE_CLASS}" in " ".join(done.output.split())
    assert done.output.index("cannot be done") < done.output.index(" done: ")
    runs = expand(study(tmp_path, more=THREE), methods.split(","), [3.0], 1, True, None)
    results = {result.contender: result for result in Store(out).results(runs)}
    assert results.keys() == {"three", "local-dp", "local", "pooled", "public"}
    assert results["three"].encryption.startswith("ckks")
    for rival in ("local-dp", "local"):
        assert {h.hospital for h in results[rival].hospitals} == {"north", "south", "east"}
        assert results[rival].untrained == (ONE_CLASS,)
    assert {h.hospital for h in results["pooled"].hospitals} == {"north", "south", "east", "west"}
    page = (out / "report.html").read_text()
    assert f"OneClassOnly: {ONE_CLASS}" in page
    assert "Rivals were not trained" in page


def test_all_seeds_and_sites_are_in_one_message(tmp_path: Path) -> None:
    def two_alike(number: int, row: Row) -> None:
        if row["clinic"] == "south":
            row["outcome"] = "ill"

    write(tmp_path, patients(change=two_alike))
    runs = expand(study(tmp_path), ["fedavg", "public"], [3.0], 3, True, None)
    before = look_ahead(runs)
    assert [problem.line for problem in before.problems] == [
        "seeds 1, 2, 3 (fedavg): south: all records are of one class (ill)",
        f"seeds 1, 2, 3 (fedavg): {ONE_CLASS}",
    ]
    assert before.impossible.keys() == {run.id for run in runs if run.contender == "fedavg"}
    assert before.advice.startswith("Deal the patients in another way"), "two hospitals make no study"
    with pytest.raises(OneClassOnly, match="no run is possible: seeds 1, 2, 3 .*south.*; seeds 1, 2, 3 .*west"):
        look_ahead([run for run in runs if run.contender == "fedavg"])


def test_a_plain_run_is_refused_as_a_deployed_one_would_be(tmp_path: Path) -> None:
    write(tmp_path, patients())
    (run,) = expand(study(tmp_path), ["fedavg"], [3.0], 1, False, None)
    with pytest.raises(OneClassOnly, match="west"):
        execute(run)


def test_a_seed_whose_test_part_nobody_can_be_judged_on_is_named(tmp_path: Path) -> None:
    def fold(number: int, row: Row) -> None:
        row["fold"] = "test" if row["outcome"] == "well" and number % 3 == 0 else "train"

    write(tmp_path, patients(change=fold))
    file = study(tmp_path, 'split = "fold"\n', parts="[parts]\npublic = 30\nreference = 40\n")
    with pytest.raises(OneClassOnly, match="test part has records of one class only .well."):
        require_fit(file, study_data(file, None))
    with pytest.raises(OneClassOnly, match="test part"):
        look_ahead(expand(file, ["local", "fedavg"], [3.0], 2, False, None))


def test_what_is_said_beforehand_is_what_a_hospital_would_say(tmp_path: Path) -> None:
    write(tmp_path, patients())
    for more in ("", "[privacy]\nsampling_rate = { small = 0.01 }\n"):
        file = study(tmp_path, more=more)
        data = study_data(file, None)
        plan, said = study_plan(file, data), dict[str, str]()
        for name, (_, records) in data.hospitals.items():
            try:
                check_records(records, plan, name)
            except FedHelpError as error:
                said[name] = f"{type(error).__name__}: {error.message}"
        assert {n: f"{type(e).__name__}: {e.message}" for n, e in unfit_hospitals(file, data).items()} == said
        assert said


def test_too_few_patients_for_the_rate_ask_for_a_larger_one(tmp_path: Path) -> None:
    write(tmp_path, patients(change=lambda number, row: row.update(outcome="ill") if number % 8 == 3 else None))
    file = study(tmp_path, more="[privacy]\nsampling_rate = { small = 0.01 }\n")
    with pytest.raises(TooFewPatients, match=r"east: the plan's rate draws 0\.\d+") as raised:
        require_fit(file, study_data(file, None))
    assert "larger sampling rate" in raised.value.hint
    (error, *_) = unfit_hospitals(file, study_data(file, None)).values()
    assert "A larger sampling rate is needed" in error.hint


def test_a_part_that_one_seed_cannot_deal_is_told_with_the_seeds(tmp_path: Path) -> None:
    """A site at the edge is dealt enough patients under some seeds."""
    write(tmp_path, patients())
    runs = expand(study(tmp_path, top='hospitals = ["north", "south", "east"]\n', parts=PARTS.replace("80", "60"),
                        partition='[partition]\nkind = "site"\ncolumn = "clinic"\nminimum_patients = 54\n'),
                  ["local", "public"], [3.0], 6, False, None)  # fmt: skip
    before, told = look_ahead(runs), []
    broken = {run.study.seed for run in runs if run.id in before.impossible}
    assert 0 < len(broken) < 6
    assert {seed for problem in before.problems for seed in problem.seeds} == broken
    engine = Counting()
    sweep(runs, tmp_path / "out", engine, told.append)
    assert {outcome.run.study.seed for outcome in told if outcome.error} == broken
    assert len(engine.done) == len(runs) - 2 * len(broken)
    assert all(type_name == "InvalidPartition" for type_name in {o.error.split(":")[0] for o in told if o.error})
    assert InvalidPartition.__name__ in render(runs, [], before.impossible)


def test_the_advice_leaves_out_whoever_cannot_take_part_under_any_seed(tmp_path: Path) -> None:
    def change(number: int, row: Row) -> None:
        if number % 4 == 0 and number < 36:
            row["clinic"] = "tiny"

    write(tmp_path, patients(change=change))
    before = look_ahead(expand(study(tmp_path), ["fedavg", "local", "public"], [3.0], 6, False, None))
    said = " ".join(problem.message for problem in before.problems)
    assert ONE_CLASS in said
    assert "tiny would have 4 patients, and 5 are needed" in said
    assert len(before.impossible) < 18, "under some seeds the smallest clinic is large enough"
    assert 'hospitals = ["east", "north", "south"]' in before.advice


def test_a_page_says_whom_it_is_of_with_its_columns(tmp_path: Path) -> None:
    def fold(number: int, row: Row) -> None:
        if number < 4:
            row |= {"clinic": "<annex>"}

    write(tmp_path, patients(change=fold))
    file = study(tmp_path, 'exclude = ["follow_up"]\n', "rounds = 1\nsmallest_site = 5\n")
    runs = expand(file, ["local"], [3.0], 2, False, None)
    results: list[RunResult] = [execute(run) for run in runs]
    page = require_self_contained(render(runs, results))
    require_readable_aloud(page)
    rows = {row[0]: row[1:] for row in page.tables["cohort-1"][1:]}
    assert rows.keys() == {"north large", "south small", "east small", "west small", "public", "reference", "test"}
    for one, number in zip(results[0].cohort.hospitals if results[0].cohort else (), range(4), strict=True):
        other = results[1].cohort.hospitals[number] if results[1].cohort else one
        low, high = sorted((one.training.patients, other.training.patients))
        assert rows[f"{one.name} {one.tier}"][0] == (str(low) if low == high else f"{low} to {high}")
    text = page.text
    assert "Left out: annex, with 4 patients: smallest_site = 5" in text
    assert "Not taken: follow_up" in text
    assert "3 categories: high, low, mid" in text


def test_a_figure_on_own_patients_stands_with_their_counts(tmp_path: Path) -> None:
    write(tmp_path, patients(800))
    file = study(tmp_path, parts=PARTS.replace("80", "240"))
    (run,) = expand(file, ["local"], [3.0], 1, False, None)
    sweep([run], tmp_path / "out", lambda left: iter([_outcome(run)]))
    (result,) = Store(tmp_path / "out").results([run])
    found = {h.hospital: h for h in result.hospitals}
    assert {name for name, h in found.items() if "home_auroc" in h.metrics} == {"north", "south", "east"}
    page = (tmp_path / "out" / "report.html").read_text()
    for name, h in found.items():
        assert h.home is not None
        assert f"{name}: {h.home.patients} patients (ill {h.home.classes['ill']}, " in page
    assert "fewer than 10 own test patients" in page
    old = json.loads((tmp_path / "out" / "runs" / f"{run.id}.json").read_text())
    for h in old["hospitals"]:
        del h["home"]
    del old["cohort"], old["untrained"]
    (tmp_path / "out" / "runs" / f"{run.id}.json").write_text(json.dumps(old))
    (early,) = Store(tmp_path / "out").results([run])
    assert not any(name.startswith("home_") for h in early.hospitals for name in h.metrics), "of whom nobody knows"
    assert "of a version that did not keep it" in render([run], [early])


def _outcome(run):  # type: ignore[no-untyped-def]
    from secure_fedhelp.research.sweep.engines import attempt

    return attempt(run)


@pytest.mark.end
@pytest.mark.parametrize("everybody", [True, False])
def test_nobody_waits_an_hour_for_a_hospital_that_left(tmp_path: Path, everybody: bool) -> None:
    """Past every check beforehand: a hospital whose own check fails comes no more, and a simulation knows it."""
    write(tmp_path, patients())
    file = study(tmp_path)
    data = study_data(file, None)
    run, started = create_run_folder(tmp_path / "run", overwrite=False), time.monotonic()
    if everybody:
        with pytest.raises(UnderQuorum, match=f"west.*: {ONE_CLASS[:20]}"):
            run_simulation(run, study_plan(file, data), data, Console(quiet=True), rivals=False, everybody=True)
    else:
        run_simulation(run, study_plan(file, data), data, Console(quiet=True), rivals=False)
        assert (run.hospital("north").models / "personal.pt").exists()
    assert time.monotonic() - started < 60


def test_a_deadline_is_passed_only_when_all_who_live_wait_for_it(tmp_path: Path) -> None:
    write(tmp_path, patients())
    file = study(tmp_path)
    plan = study_plan(file, study_data(file, None))
    now = [1000.0]
    waiting = Waiting(plan, lambda: now[0])

    def watched(name: str, known: int, version: int) -> None:
        waiting.begins(name, known)
        waiting.hears(name, version, "gathering")

    assert not waiting.look([]), "nobody lives"
    watched("north", 3, 3)
    watched("south", 3, 3)
    waiting.begins("north", 3)
    assert not waiting.look(["north", "south"]), "south is at work"
    waiting.begins("south", 3)
    assert not waiting.look(["north", "south", "east"]), "east has not come yet"
    assert waiting.clock() == 1000.0
    assert waiting.look(["north", "south"])
    assert waiting.clock() == 1000.0 + plan.aggregation.gather_deadline_seconds
    assert not waiting.look(["north", "south"]), "once"
    watched("north", 3, 4)
    waiting.begins("north", 4)
    watched("south", 3, 3)
    waiting.begins("south", 3)
    assert not waiting.look(["north", "south"]), "there is news"
    watched("north", 4, 4)
    watched("south", 4, 4)
    for name in ("north", "south"):
        waiting.begins(name, 4)
        waiting.hears(name, 4, "summing")
        waiting.begins(name, 4)
    assert not waiting.look(["north", "south"]), "no deadline: the coordinator is at work"
