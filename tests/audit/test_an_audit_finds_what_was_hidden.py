"""An audit of a whole run from its files: an honest one passes, and each thing somebody could hide is found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from consortia import DAY, NOW, Consortium
from ledgers import DATASET, EVENT, channels
from plans import example_plan
from runs import Run, make_run
from stories import pay, story_plan
from typer.testing import CliRunner
from unlocking import UNLOCK

from secure_fedhelp.audit.epsilon import recompute, shown
from secure_fedhelp.audit.verify import Finding, verify_run
from secure_fedhelp.cli.audit import app
from secure_fedhelp.errors import LedgerInvalid, StorageError
from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import ChannelRelease
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import PooledExact, planned_event, planned_events
from secure_fedhelp.privacy.release import Budget, ReleaseGate
from secure_fedhelp.study.canonical import canonical_bytes

PLAN = example_plan()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "honest", PLAN, rounds=3)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy to tamper with."""
    shutil.copytree(finished.root, tmp_path / "run")
    lines = list(finished.scribe.lines)
    scribe = type(finished.scribe)(PLAN, finished.scribe.coordinator, dict(finished.scribe.hospitals), lines)
    return Run(tmp_path / "run", PLAN, scribe, finished.consortium)


def failures(run: Run, ca_pem: bytes | None = None) -> list[Finding]:
    return [f for f in verify_run(run.root, NOW, ca_pem) if not f.ok]


# -- an honest run ---------------------------------------------------------------------------------------------------


def test_an_honest_run_passes_every_check(finished: Run) -> None:
    findings = verify_run(finished.root, NOW)
    assert [f for f in findings if not f.ok] == []
    checks = {(f.subject, f.check) for f in findings}
    assert len(checks) == len(findings) == 3 * 5 + 4 + 3
    details = {f.check: f.detail for f in findings if f.subject == "beta"}
    spent = epsilon([planned_event(PLAN.privacy_of("beta"))] * 3, 1e-4)
    assert f"{shown(spent)} of 3 at delta 0.0001" in details["epsilon in budget"]
    assert details["uploads paid for"] == "3 uploads, 6 entries"
    assert details["releases as planned"] == "3 releases"
    assert next(f.detail for f in findings if f.subject == "plan") == PLAN.hash


def test_an_audit_may_come_years_later_and_brings_its_own_ca(finished: Run) -> None:
    assert [f for f in verify_run(finished.root, NOW + 4000 * DAY, finished.consortium.ca_pem) if not f.ok] == []


def test_a_spend_without_an_upload_is_no_failure(run: Run) -> None:
    run.spend("alpha", 3)
    findings = verify_run(run.root, NOW)
    assert [f for f in findings if not f.ok] == []
    assert any(f.detail == "3 uploads, 8 entries, 2 after the last upload" for f in findings)


def test_a_study_that_never_got_to_a_round_passes(tmp_path: Path) -> None:
    assert failures(make_run(tmp_path / "run", PLAN, rounds=0)) == []


def found_in(reason: str, text: str) -> bool:
    return re.search(re.escape(reason).replace(r"\.\*", ".*"), text) is not None


# -- what somebody hides ---------------------------------------------------------------------------------------------


def cut_ledger(run: Run) -> None:
    path = run.ledger("beta")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))


def delete_ledger(run: Run) -> None:
    run.ledger("beta").unlink()


def empty_ledger(run: Run) -> None:
    run.ledger("beta").write_bytes(b"")


def rewrite_ledger(run: Run) -> None:
    """The hospital signs a new history with its own key."""
    run.ledger("beta").unlink()
    for number in (1, 2, 0):
        run.spend("beta", number)


def swap_ledgers(run: Run) -> None:
    shutil.copy(run.ledger("gamma"), run.ledger("beta"))


def foreign_key(run: Run) -> None:
    run.ledger("beta").unlink()
    run.scribe.hospitals["beta"] = SigningKey.generate()
    for number in range(3):
        run.spend("beta", number)


def spoil_byte(run: Run) -> None:
    content = bytearray(run.ledger("beta").read_bytes())
    content[300] ^= 1  # in the first entry
    run.ledger("beta").write_bytes(content)


def unpaid_upload(run: Run) -> None:
    """A fourth upload that no entry of its round pays for."""
    fourth_upload(run, *run.spend("beta", 0))


def upload_paid_by_nothing(run: Run) -> None:
    """A fourth upload whose round's only entry says that training came to nothing, and that zeros left."""
    key = run.scribe.hospitals["beta"]
    with Ledger.open(run.ledger("beta"), "beta", key, lambda: NOW) as ledger:
        gate = ReleaseGate(ledger, run.plan, "beta", Budget(DATASET))
        gate.reserve(3)
        gate.spend_without_release(3, "system")
        entries, head = ledger.count, ledger.head
    fourth_upload(run, entries, head)


def fourth_upload(run: Run, entries: int, head: str) -> None:
    cohort = [run.scribe.signed(run.scribe.header("beta", 3, ledger_entries=entries, ledger_head=head))]
    for name in ("alpha", "gamma"):
        paid, its_head = run.spend(name, 3)
        cohort.append(run.scribe.signed(run.scribe.header(name, 3, ledger_entries=paid, ledger_head=its_head)))
    run.scribe.publish(run.scribe.entry(sorted(cohort, key=lambda u: u["header"]["hospital"])))
    run.write_transcript()


@pytest.mark.parametrize(
    ("hide", "check", "reason"),
    [
        (cut_ledger, "uploads paid for", "ledger.jsonl: entry 4 (round 3): the upload witnessed 6 entries"),
        (delete_ledger, "uploads paid for", "entry 0 (round 1): the upload witnessed 2 entries"),
        (empty_ledger, "uploads paid for", "the ledger has 0"),
        (rewrite_ledger, "uploads paid for", "entry 1 (round 1): .* does not go on"),
        (swap_ledgers, "ledger is its own", "ledger.jsonl: entry 0: the ledger is of gamma"),
        (foreign_key, "ledger is its own", "ledger is of beta with key"),
        (spoil_byte, "ledger unbroken", "hospitals/beta/ledger.jsonl: entry 0"),
        (unpaid_upload, "uploads paid for", "entry 7 (round 4): .* no release up to it paid"),
        (upload_paid_by_nothing, "uploads paid for", "entry 7 (round 4): .* no release up to it paid"),
    ],
)
def test_what_a_hospital_hides_is_found(hide: Callable[[Run], None], check: str, reason: str, run: Run) -> None:
    hide(run)
    found = failures(run)
    assert {f.subject for f in found} == {"beta"}
    assert any(f.check == check and found_in(reason, f.detail) for f in found), found


def release(run: Run, name: str, number: int, **changes: Any) -> None:
    """What a hospital writes that goes round its own gate: one release, reserved first, as the plan says or not."""
    plan = changes.pop("plan", run.plan)
    fields = {"study": plan.hash, "round": number, "delta": 1e-4, "dataset": DATASET}
    events = changes.pop("events", planned_events(plan, name, min(number, plan.study.rounds - 1)))
    fields |= {k: changes.pop(k) for k in ("delta", "dataset") if k in changes}
    with Ledger.open(run.ledger(name), name, run.scribe.hospitals[name], lambda: NOW + number) as ledger:
        if changes.pop("reserved", True):
            ledger.reserve(events, **fields)  # type: ignore[arg-type]
        ledger.release(events, **fields, **{"channels": channels(), "noise_source": "system"} | changes)  # type: ignore[arg-type]


def test_a_budget_that_was_overspent_is_found(tmp_path: Path) -> None:
    """By a hospital that went on after its gate had said no; the round that broke it is named."""
    run = make_run(tmp_path / "run", example_plan(privacy__small__epsilon=0.8), rounds=0)
    for number in range(4):
        release(run, "beta", number)
    found = failures(run)
    assert [(f.subject, f.check) for f in found] == [("beta", "epsilon in budget")]
    assert re.search(r"hospitals/beta/ledger.jsonl: entry 5 \(round 3\): epsilon \S+ of 0.8 at delta", found[0].detail)


def test_what_all_studies_together_spent_is_held_against_the_site_policy(run: Run) -> None:
    earlier = example_plan(study__name="earlier", privacy__small__noise_multiplier=3.0)
    run.spend("beta", 0, earlier)
    ever = epsilon([planned_event(PLAN.privacy_of("beta"))] * 3 + [planned_event(earlier.privacy_of("beta"))], 1e-4)
    policy = run.ledger("beta").with_name("policy.toml")

    def lifetime(limit: float) -> Finding:
        policy.write_text(f"smallest_coalition = 0\nlargest_epsilon = 3.0\nlifetime_epsilon = {limit}\n")
        found = {f.check: f for f in verify_run(run.root, NOW) if f.subject == "beta"}
        assert found["epsilon in budget"].ok
        return found["lifetime within the policy"]

    assert lifetime(3.0) == Finding("beta", "lifetime within the policy", True, f"{shown(ever)} of 3 at delta 0.0001")
    over = lifetime(ever * 0.999)
    assert not over.ok
    assert "ledger.jsonl: entry 7 (round 1): data set dddddddddddddddd has spent" in over.detail
    release(run, "beta", 3, dataset="e" * 64)
    assert lifetime(3.0).detail.endswith(", over 2 data sets together")
    # Each data set alone keeps to this limit; whether a patient is in both, only the hospital knows.
    assert lifetime(ever * 1.001).ok
    assert lifetime(ever * 1.001).detail.endswith("; above it for a patient who is in several of them")


def test_exact_counts_of_all_studies_are_held_against_the_site_policy(run: Run) -> None:
    """They have no epsilon, so no budget stops a second release: only their number does."""
    exact = (PooledExact(smallest_cohort=3),)
    counts = [
        ChannelRelease(name="metrics", mechanism="pooled-exact", derived_from=("event:0",), values_sha256="0" * 64)
    ]
    for name in ("earlier", "later"):
        release(run, "beta", 0, plan=example_plan(study__name=name), events=exact, channels=counts)
    policy = run.ledger("beta").with_name("policy.toml")
    policy.write_text('smallest_coalition = 0\nmetrics = "pooled"\nexact_releases = 2\n')
    assert failures(run) == []
    policy.write_text('smallest_coalition = 0\nmetrics = "pooled"\nexact_releases = 1\n')
    (found,) = failures(run)
    assert (found.subject, found.check) == ("beta", "lifetime within the policy")
    assert "ledger.jsonl: entry 9 (round 1): data set dddddddddddddddd has 2 releases of exact counts" in found.detail


def test_a_site_policy_that_refuses_the_plan_is_found(run: Run) -> None:
    folder = run.ledger("beta").parent
    (folder / "policy.toml").write_text("smallest_coalition = 0\nlargest_epsilon = 2.0\nlargest_delta = 1e-6\n")
    found = {f.check: f for f in failures(run)}
    detail = found["the policy allows the plan"].detail
    assert detail.startswith("PolicyViolation: hospitals/beta/policy.toml: policy ")
    assert "largest_epsilon: the plan asks 3" in detail
    assert "largest_delta" in detail
    (folder / "policy.toml").write_text("smallest_coalition = 0\n")
    assert failures(run) == []
    (folder / "hospital.toml").write_text(
        'name = "beta"\nconsortium = "north"\nfoundation_url = "https://teacher.example"\n'
    )
    assert "foundation_endpoints" in failures(run)[0].detail
    (folder / "hospital.toml").write_text('name = "gamma"\nconsortium = "north"\n')
    assert "hospitals/beta/hospital.toml: it is that of gamma, not of beta" in failures(run)[0].detail
    (folder / "hospital.toml").unlink()
    (folder / "policy.toml").write_text("smalest_coalition = 0\n")
    assert "InvalidPolicy: hospitals/beta/policy.toml: smalest_coalition" in failures(run)[0].detail


PUBLIC = {"mechanism": "public", "derived_from": ("public:plan",)}
NOT_PLANNED: dict[str, tuple[dict[str, Any], str]] = {
    "a mechanism that the plan does not have": (
        {"events": (EVENT.model_copy(update={"steps": 6}),)},
        "its mechanisms are not those",
    ),
    "a round that the plan does not have": ({"number": 4}, "the plan has 4 rounds"),
    "no reservation": ({"reserved": False}, "it was released without a reservation"),
    "another delta": ({"delta": 1e-3}, "it states delta 0.001"),
    "a channel less": ({"channels": channels()[:1]}, "channels ['model-update'], the plan says"),
    "a channel by another mechanism": (
        {"channels": [channels()[0].model_copy(update={"mechanism": "post-processing"}), channels()[1]]},
        "channel model-update is not declared for post-processing",
    ),
    "a public channel that is not zero": (
        {"channels": [channels()[0], channels()[1].model_copy(update=PUBLIC)]},
        "channel public-logits is called public, and is not zero",
    ),
    "noise from a seed": ({"noise_source": "seeded-research"}, "noise of source seeded-research in deployment mode"),
}


@pytest.mark.parametrize("case", NOT_PLANNED)
def test_a_release_that_the_plan_does_not_allow_is_found(case: str, run: Run) -> None:
    changes, reason = NOT_PLANNED[case]
    entry = 6 if case == "no reservation" else 7
    number = changes.get("number", 3)
    release(run, "beta", number, **{k: v for k, v in changes.items() if k != "number"})
    found = failures(run)
    assert [(f.subject, f.check) for f in found] == [("beta", "releases as planned")]
    assert f"hospitals/beta/ledger.jsonl: entry {entry} (round {number + 1}): {reason}" in found[0].detail


def test_seeded_noise_is_pointed_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", example_plan(study__mode="research"), rounds=1)
    text = "seeded research noise"
    assert not any(text in f.detail for f in verify_run(run.root, NOW))
    release(run, "beta", 1, noise_source="seeded-research")
    assert any(text in f.detail and f.subject == "beta" and f.ok for f in verify_run(run.root, NOW))


def test_exact_counts_are_named_beside_the_epsilon_that_does_not_count_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", story_plan(), rounds=0)
    pay(run, "beta", 3)
    found = next(f for f in verify_run(run.root, NOW) if (f.subject, f.check) == ("beta", "epsilon in budget"))
    assert found.ok
    assert found.detail == "0.0000 of 3 at delta 0.0001; exact counts in round 4: NO DIFFERENTIAL PRIVACY"


#: A fourth round that the ledgers know nothing of.
ROUND_FOUR: dict[str, Any] = {"ledger_entries": 8, "ledger_head": "e" * 64}
TRANSCRIPT_FOUR = "coordinator/transcript.jsonl: transcript entry 3: "


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"weight": 0.123}, "weighted by"), ({"body_bytes": 17}, "length"), ({"profile": "fast"}, "another profile")],
)
def test_a_round_outside_of_the_plan_is_found(change: dict[str, object], reason: str, run: Run) -> None:
    run.scribe.round(**ROUND_FOUR, **change)
    run.write_transcript()
    assert any(f.subject == "round 4" and TRANSCRIPT_FOUR in f.detail and reason in f.detail for f in failures(run))


def test_too_small_a_cohort_or_sum_is_found(run: Run) -> None:
    cohort = [run.scribe.signed(run.scribe.header(name, 3, **ROUND_FOUR)) for name in ("alpha", "beta")]
    run.scribe.publish(run.scribe.entry(cohort))
    run.write_transcript()
    assert any(f.subject == "round 4" and "at least 3" in f.detail for f in failures(run))


def test_a_sum_of_another_length_is_found(run: Run) -> None:
    run.scribe.round(lambda e: e.update(sum_bytes=5), **ROUND_FOUR)
    run.write_transcript()
    assert any(f.subject == "round 4" and "sum of 5 bytes" in f.detail for f in failures(run))


def test_more_rounds_than_planned_are_found(run: Run) -> None:
    run.scribe.round(**ROUND_FOUR)
    run.scribe.round(ledger_entries=10, ledger_head="f" * 64)
    run.write_transcript()
    reason = "transcript entry 4: 5 rounds, the plan has 4"
    assert any(f.subject == "coordinator" and reason in f.detail for f in failures(run))


def test_rounds_that_only_the_ledgers_know_are_found(run: Run) -> None:
    """The transcript's last entry was dropped, or an older copy put in its place."""
    run.scribe.lines.pop()
    run.write_transcript()
    found = failures(run)
    assert [(f.subject, f.check) for f in found] == [("coordinator", "no round left out")]
    assert "coordinator/transcript.jsonl: transcript entry 2: missing: the ledgers of alpha, beta, gamma hold" in (
        found[0].detail
    )


# -- roster, transcript, authority -----------------------------------------------------------------------------------


def test_a_card_of_another_authority_is_found(run: Run, tmp_path: Path) -> None:
    other = Consortium.create(tmp_path / "other", "north")
    found = failures(run, other.ca_pem)
    assert any(f.subject == "roster" and "WrongAuthority" in f.detail for f in found)
    assert any(f.subject == "coordinator" for f in found), "without cards the transcript proves nothing"


def test_a_card_that_is_missing_or_misnamed_is_found(run: Run) -> None:
    run.change_roster(lambda cards: cards.update(beta=cards["gamma"]))
    assert any("card under beta is that of gamma" in f.detail for f in failures(run))
    run.change_roster(lambda cards: cards.pop("beta"))
    found = failures(run)
    assert any(f.subject == "coordinator" and "beta is no member" in f.detail for f in found)
    assert any(f.subject == "beta" and "no card" in f.detail for f in found)
    run.change_roster(lambda cards: cards.pop("coordinator"))
    assert any(f.subject == "roster" and "0 valid cards" in f.detail for f in failures(run))


def test_a_card_that_stands_twice_is_found(run: Run) -> None:
    """Of which one program reads the first and another the last."""
    forged = json.loads(run.roster.read_bytes())["beta"] | {"signing_key": "ab" * 32}
    run.roster.write_bytes(b'{"beta":' + canonical_bytes(forged) + b"," + run.roster.read_bytes()[1:])
    assert any(f.subject == "roster" and "names something twice" in f.detail for f in failures(run))


def test_a_study_is_audited_after_its_hospitals_went_on_to_others(run: Run) -> None:
    """Their ledgers go on for years, with certificates that this study never saw."""
    with Ledger.open(run.ledger("beta"), "beta", run.scribe.hospitals["beta"], lambda: NOW + 4000 * DAY) as ledger:
        ledger.reserve(planned_events(PLAN, "beta", 0), study="ab" * 32, round=0, delta=1e-4, dataset=DATASET)
    assert failures(run) == []


def test_a_certificate_that_ended_after_its_member_had_left_is_no_fault(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLAN, rounds=1, days={"beta": 10})

    def reserves(name: str) -> None:
        with Ledger.open(run.ledger(name), name, run.scribe.hospitals[name], lambda: NOW + 20 * DAY) as ledger:
            ledger.reserve(planned_events(PLAN, name, 1), study=PLAN.hash, round=1, delta=1e-4, dataset=DATASET)

    reserves("alpha")
    assert failures(run) == []
    with Ledger.open(run.ledger("alpha"), "alpha", run.scribe.hospitals["alpha"], lambda: NOW + 4000 * DAY) as ledger:
        ledger.void(ledger.entries[-1])  # given back when somebody noticed that the study was over
    assert failures(run) == []
    reserves("beta")
    assert any(f.subject == "roster" and "CertificateExpired" in f.detail for f in failures(run))


def test_a_certificate_that_was_renewed_after_its_members_last_entry_is_no_fault(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLAN, rounds=1)
    folder = run.consortium.root / "beta"
    (folder / "tls.crt").write_bytes(
        run.consortium.authority.sign(
            run.consortium.request("beta"), "hospital", "beta", NOW + 9 * DAY, 365, (), renew=True
        )
    )
    key = run.scribe.hospitals["beta"]
    card = make_card(PLAN.hash, "hospital", "beta", key.public_hex, "ab" * 32, folder, key, UNLOCK)
    run.change_roster(lambda cards: cards.update(beta=json.loads(card)))
    assert failures(run) == []


def test_a_ledger_whose_clock_runs_ahead_is_named(run: Run) -> None:
    """Its card looks expired at its time: the card is not to blame."""
    key = run.scribe.hospitals["beta"]
    with Ledger.open(run.ledger("beta"), "beta", key, lambda: NOW + 40_000 * DAY) as ledger:
        ledger.reserve(planned_events(PLAN, "beta", 3), study=PLAN.hash, round=3, delta=1e-4, dataset=DATASET)
    found = next(f for f in failures(run) if f.subject == "roster")
    assert "judged at the time of hospitals/beta/ledger.jsonl: entry 6" in found.detail


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 50_000, b'{"alpha": 3}', b"\xff"])
def test_a_spoilt_roster_is_a_finding_and_no_traceback(content: bytes, run: Run) -> None:
    run.roster.write_bytes(content)
    assert any(f.subject == "roster" for f in failures(run))


def test_missing_files_are_findings(run: Run) -> None:
    run.transcript.unlink()
    assert any(f.subject == "coordinator" and "cannot read" in f.detail for f in failures(run))
    run.roster.unlink()
    assert any(f.subject == "roster" and "cannot read" in f.detail for f in failures(run))


def test_a_transcript_signed_by_somebody_else_is_found(run: Run) -> None:
    run.scribe.lines.clear()
    run.scribe.coordinator = SigningKey.generate()
    run.scribe.round()
    run.write_transcript()
    assert any("signature of the coordinator" in f.detail for f in failures(run))


def test_what_is_no_run_is_said(tmp_path: Path, run: Run) -> None:
    with pytest.raises(StorageError, match="not a run directory"):
        verify_run(tmp_path, NOW)
    shutil.move(run.root / "ca.crt", run.root / "consortium" / "ca.crt")
    assert failures(run) == []
    (run.root / "consortium" / "ca.crt").unlink()
    with pytest.raises(StorageError, match=r"no ca\.crt"):
        verify_run(run.root, NOW)


# -- epsilon of one ledger -------------------------------------------------------------------------------------------


def test_epsilon_is_recomputed_from_the_file_alone(finished: Run) -> None:
    report = recompute(finished.ledger("alpha"))
    event = planned_event(PLAN.privacy_of("alpha"))
    assert report.pld == epsilon([event] * 3, 1e-4) < report.rdp
    assert (report.hospital, report.unit, report.delta, report.entries) == ("alpha", "patient", 1e-4, 6)
    assert report.public_key == finished.scribe.hospitals["alpha"].public_hex
    assert report.noise_sources == ("system",)
    assert recompute(finished.ledger("alpha"), report.public_key, delta=1e-6).pld > report.pld
    with pytest.raises(LedgerInvalid, match="key"):
        recompute(finished.ledger("alpha"), finished.scribe.hospitals["beta"].public_hex)


def test_an_empty_ledger_has_spent_nothing(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"")
    report = recompute(tmp_path / "ledger.jsonl")
    assert (report.entries, report.pld, report.rdp) == (0, 0.0, 0.0)


# -- the command -----------------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_command_prints_a_table_and_ends_with_zero(finished: Run) -> None:
    code, text = invoke("verify", finished.root)
    assert code == 0
    assert "All 22 checks hold." in text
    assert "By the run's own ca.crt" in text
    ca = finished.root / "ca.crt"
    code, text = invoke("verify", finished.root, "--ca", ca)
    assert code == 0
    assert "own ca.crt" not in text
    code, text = invoke("epsilon", *(finished.ledger(n) for n in ("alpha", "beta")))
    assert code == 0
    assert "alpha" in text
    assert "beta" in text
    assert shown(recompute(finished.ledger("beta")).pld) in text


def test_the_command_ends_with_one_if_anything_does_not_hold(run: Run) -> None:
    cut_ledger(run)
    code, text = invoke("verify", run.root)
    assert code == 1
    assert "1 of 22 checks failed." in text
    assert "Keep the files as they are." in text
    assert "FAILED" in text
    spoil_byte(run)
    code, text = invoke("epsilon", run.ledger("alpha"), run.ledger("beta"))
    assert code == 1
    assert "LedgerInvalid" in text
    assert "alpha" in text, "the other ledger is still reported"


def test_the_command_names_a_missing_file(run: Run) -> None:
    with pytest.raises(StorageError, match="absent"):
        invoke("verify", run.root, "--ca", run.root / "absent.crt")
    assert invoke("epsilon", run.root / "absent.jsonl")[0] == 1


def test_json_of_an_entry_says_all_an_auditor_needs(finished: Run) -> None:
    entry = json.loads(finished.ledger("alpha").read_bytes().splitlines()[1])["entry"]
    assert set(entry) >= {"events", "delta", "unit", "study", "round", "channels", "noise_source", "public_key"}
    assert set(entry) >= {"kind", "dataset", "reservation"}
