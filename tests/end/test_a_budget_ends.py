"""A hospital whose budget ends in round k stops before training for round k + 1; the others go on; the report says so.

Round k + 1 is the last that it can open: it has left for good, so the next study key is sealed to the others alone.

Everything runs as in a demonstration: the coordinator and every hospital as a process of its own, then the summary and
the report from their files.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html import unescape

import pytest
from ledgers import channels
from studies import PATIENCE_SECONDS, Study, study

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.signing import ED25519, SigningKey
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import Release, spent
from secure_fedhelp.privacy.ledger import Ledger, read_ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.research.demo_setup import write_teachers
from secure_fedhelp.research.report import write_report
from secure_fedhelp.research.results import collect
from secure_fedhelp.research.summary import Summary, read_summary, write_summary

pytestmark = pytest.mark.end

POOR = "large-3"
HOSPITALS = ("large-2", POOR, "small-1", "small-2")
OTHERS = set(HOSPITALS) - {POOR}
ROUNDS = 4


def spend_two_rounds_elsewhere(running: Study) -> None:
    """An earlier study on the same patients, whose two rounds cost as much as two of this study."""
    folder = running.run.hospital(POOR)
    key = SigningKey.load(folder.keys / "signing.key", open_lock(folder.root)).of(ED25519)
    with Ledger.open(folder.ledger, POOR, key, lambda: 1_700_000_000.0) as ledger:
        for number in (0, 1):
            ledger.release(
                planned_events(running.plan, POOR, number),
                study="e" * 64,
                round=number,
                delta=running.plan.privacy_of(POOR).delta,
                dataset="d" * 64,  # a data set that nobody knows any more counts as the same patients
                channels=channels(number)[:1],
                noise_source="system",
            )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Summary]]:
    folder = tmp_path_factory.mktemp("budget") / "run"
    with study(folder, ROUNDS, HOSPITALS) as running:
        spend_two_rounds_elsewhere(running)
        write_teachers(running.run, running.plan, running.data.references)
        running.start_coordinator()
        for name in HOSPITALS:
            running.start_process(name)
        for name in HOSPITALS:
            code = running.parties.parties[name].process.wait(PATIENCE_SECONDS)
            assert code == 0, running.parties.parties[name].tail(20)
        summary = collect(running.run, running.plan, "breast-cancer", 1.0, 1, running.data)
        write_summary(folder / "summary.json", summary)
        write_report(read_summary(folder / "summary.json"), folder / "report.html")
        yield running, summary


def said(running: Study, name: str) -> list[str]:
    return (running.run.hospital(name).root / "log.txt").read_text(encoding="utf-8").splitlines()


def trained(running: Study, name: str) -> list[int]:
    """The rounds that a hospital trained for, as people count them."""
    return [int(found[1]) for line in said(running, name) if (found := re.match(r"training round=(\d+)", line))]


def test_it_stops_before_training_for_the_round_it_cannot_pay(finished: tuple[Study, Summary]) -> None:
    running, _ = finished
    assert trained(running, POOR) == [1, 2]
    told = [line for line in said(running, POOR) if line.startswith("budget exhausted round=3")]
    assert len(told) == 1
    assert "lifetime_epsilon" in told[0], "it says which budget ended"
    folder = running.run.hospital(POOR)
    entries = read_ledger(folder.ledger)
    assert [(e.kind, e.round) for e in entries if e.study == running.plan.hash] == [
        ("reservation", 0),
        ("release", 0),
        ("reservation", 1),
        ("release", 1),
    ], "no training, and not even a reservation, for the round after"
    privacy, limit = running.plan.privacy_of(POOR), folder.policy().lifetime
    assert epsilon(spent(entries), privacy.delta) <= limit
    more = [*spent(entries), *spent([e for e in entries if isinstance(e, Release)][-1:])]
    assert epsilon(more, privacy.delta) > limit, "one more round would have been too much"


def test_the_others_go_on_without_it(finished: tuple[Study, Summary]) -> None:
    running, _ = finished
    assert running.cohorts() == [set(HOSPITALS), set(HOSPITALS), OTHERS, OTHERS]
    third, last = running.entries()[-2:]
    assert [(d["hospital"], d["reason"]) for d in third["declined"]] == [(POOR, "BudgetExhausted")]
    assert [third["absent"], last["absent"]] == [[], []]
    assert last["key_epoch"] == third["key_epoch"] + 1
    for name in OTHERS:
        assert trained(running, name) == [1, 2, 3, 4]
    assert [f for f in verify_run(running.run.root, time.time()) if not f.ok] == []


def test_it_still_takes_home_what_the_others_learn(finished: tuple[Study, Summary]) -> None:
    running, _ = finished
    result = json.loads(running.run.hospital(POOR).result.read_text(encoding="utf-8"))
    assert [(row["round"], row["cohort"]) for row in result["history"]] == [(0, 4), (1, 4), (2, 3)]
    assert result["history"][2]["epsilon"] == result["history"][1]["epsilon"]
    richer = json.loads(running.run.hospital("large-2").result.read_text(encoding="utf-8"))
    assert [row["round"] for row in richer["history"]] == [0, 1, 2, 3], "what came later is under a key of the others"
    models = {name: (running.run.hospital(name).models / "shared.pt").exists() for name in HOSPITALS}
    assert models == dict.fromkeys(HOSPITALS, True)


def test_summary_and_report_say_so(finished: tuple[Study, Summary]) -> None:
    running, summary = finished
    statuses = {h.name: h.status for h in summary.hospitals}
    assert statuses == dict.fromkeys(OTHERS, "contributed") | {POOR: "budget ended in round 2"}
    text = unescape(re.sub(r"<[^>]+>", " ", (running.run.root / "report.html").read_text(encoding="utf-8")))
    page = " ".join(text.split())
    assert (
        f"The budget of {POOR} ended in round 2: it stopped before training any further, and the others went on "
        "without it."
    ) in page
    assert f"{POOR} large budget ended in round 2" in page, "in the table too"
    poor, other = (next(h for h in summary.hospitals if h.name == name) for name in (POOR, "large-2"))
    assert poor.epsilon < other.epsilon <= other.epsilon_budget
    assert poor.float32_bytes == 4 * running.plan.largest_length * 2


def test_it_keeps_no_key_and_is_done_when_started_again(finished: tuple[Study, Summary]) -> None:
    running, _ = finished
    folder = running.run.hospital(POOR)
    assert said(running, POOR)[-1] == "done"
    assert list(folder.state.glob("study-key-[0-9]")) == []
    before = folder.result.read_bytes()
    (folder.state / "study-key-0").write_bytes(b"what an earlier version left")
    running.start_process(POOR)
    assert running.parties.parties[POOR].process.wait(PATIENCE_SECONDS) == 0
    assert any("this study is finished here" in line for line in said(running, POOR))
    assert folder.result.read_bytes() == before
    assert list(folder.state.glob("study-key-[0-9]")) == []
