"""Every figure of a report follows from the files, and what is uncomfortable is said first and by name."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from consortia import NOW
from ledgers import DATASET, proofs
from plans import example_plan
from runs import Run, make_run
from stories import canary, pay, story_plan

from secure_fedhelp.audit.canary.results import write_results
from secure_fedhelp.audit.report.budget import described
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport, Budget
from secure_fedhelp.audit.report.sources import Inputs
from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.identity.certificates import certificate_fingerprint, request_fingerprint
from secure_fedhelp.privacy.accountant import cross_check, epsilon
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import Gaussian, planned_event
from secure_fedhelp.privacy.release import Budget as Allowed
from secure_fedhelp.privacy.release import PrivateOutput, ReleaseGate


def budget(report: AuditReport, name: str) -> Budget:
    return next(b for b in report.budgets if b.hospital == name)


def said(report: AuditReport, name: str) -> str:
    return next(p.said for p in report.participants if p.name == name)


# -- verdict ---------------------------------------------------------------------------------------------------------


def test_an_honest_run_holds_and_has_every_finding_of_the_audit(told: Run, report: AuditReport) -> None:
    assert report.holds
    assert report.failed == ()
    of_report = [(r.subject, c.name, r.ok) for c in report.checks for r in c.results]
    of_audit = [(f.subject, f.check, f.ok) for f in verify_run(told.root, NOW)]
    assert set(of_audit) <= set(of_report)
    assert len(of_report) == len(of_audit) + 1  # that no file changed meanwhile
    assert report.said.startswith(f"All {len(of_report)} checks")
    assert "run's own copy" in report.said


def test_every_kind_of_check_is_explained(report: AuditReport) -> None:
    assert not [c.name for c in report.checks if c.shows == "A check of the run's files."]


# -- who took part ----------------------------------------------------------------------------------------------------


def test_who_took_part_is_the_transcripts_word(report: AuditReport) -> None:
    coordinator, *hospitals = report.participants
    assert coordinator.role == "coordinator"
    assert [p.name for p in hospitals] == ["alpha", "beta", "gamma", "delta", "omega"]
    alpha, _, gamma, delta, _ = hospitals
    assert (alpha.taken_part, alpha.absent, alpha.declined) == ((0, 1, 2, 3), (), ())
    assert alpha.said == "In the sum of every round."
    assert (gamma.taken_part, gamma.absent) == ((0, 2, 3), (1,))
    assert gamma.said == "In the sum of rounds 1 and 3–4. Not heard from in round 2."
    assert (delta.taken_part, delta.declined, delta.absent) == ((0, 1), (2,), ())


def test_a_hospital_whose_budget_ended_is_said_with_its_round(report: AuditReport) -> None:
    words = "Its budget had ended before round 3: it declined that round and all later ones."
    assert said(report, "delta") == f"In the sum of rounds 1–2. {words}"


def test_keys_are_those_that_are_compared_by_telephone(told: Run, report: AuditReport) -> None:
    for name in ("alpha", "coordinator"):
        request = (told.consortium.root / name / "tls.csr").read_bytes()
        found = next(p for p in report.participants if p.name == name)
        assert found.key_fingerprint == request_fingerprint(request)
    assert report.study is not None
    assert report.study.ca_fingerprint == certificate_fingerprint(told.consortium.ca_pem)
    assert report.participants[1].ledger_key == told.scribe.hospitals["alpha"].public_hex


# -- budgets ----------------------------------------------------------------------------------------------------------


def test_epsilon_is_recomputed_by_both_accountants_and_by_round(told: Run, report: AuditReport) -> None:
    for name, releases in (("alpha", 3), ("gamma", 2), ("delta", 2)):
        event, found = planned_event(told.plan.privacy_of(name)), budget(report, name)
        both = cross_check([event] * releases, 1e-4, by="dp-accounting")
        assert (found.pld, found.rdp, found.claimed) == (both.pld, both.rdp, 3.0)
        assert found.committed == found.pld
        assert found.pld == pytest.approx(found.curve[-1].epsilon, rel=1e-3)
    assert [p.round for p in budget(report, "alpha").curve] == [0, 1, 2, 3]
    assert [p.round for p in budget(report, "gamma").curve] == [0, 2, 3]
    alpha = [p.epsilon for p in budget(report, "alpha").curve]
    assert alpha[0] < alpha[1] < alpha[2] == alpha[3], "exact counts have no epsilon"
    assert alpha[0] == pytest.approx(epsilon([planned_event(told.plan.privacy_of("alpha"))], 1e-4), rel=1e-3)


def test_what_is_reserved_counts_beside_what_is_spent(run: Run) -> None:
    with Ledger.open(run.ledger("delta"), "delta", run.scribe.hospitals["delta"], lambda: NOW) as ledger:
        ReleaseGate(ledger, run.plan, "delta", Allowed(DATASET)).reserve(2)
    found = budget(gather(Inputs(run.root), NOW), "delta")
    event = planned_event(run.plan.privacy_of("delta"))
    assert found.committed == epsilon([event] * 3, 1e-4) > found.pld == epsilon([event] * 2, 1e-4)


def test_a_patient_of_every_hospital_has_all_ledgers_together(told: Run, report: AuditReport) -> None:
    counts = {"alpha": 3, "beta": 3, "gamma": 2, "delta": 2, "omega": 3}
    events = [planned_event(told.plan.privacy_of(name)) for name, count in counts.items() for _ in range(count)]
    assert report.guarantee is not None
    assert report.guarantee.everywhere == pytest.approx(epsilon(events, 1e-4))
    assert report.guarantee.everywhere_delta == 1e-4


def test_the_third_accountant_is_asked_on_request(told: Run) -> None:
    found = budget(gather(Inputs(told.root, prv=True), NOW), "alpha")
    assert found.prv is not None
    assert found.prv[0] <= found.pld <= found.prv[1] + 1e-3  # type: ignore[operator]


def test_every_study_of_a_ledger_counts_for_a_lifetime(run: Run) -> None:
    pay(run, "delta", 0, story_plan("earlier"))
    report = gather(Inputs(run.root), NOW)
    event = planned_event(run.plan.privacy_of("delta"))
    life = next(one for one in report.lifetimes if one.hospital == "delta")
    assert life.epsilon == pytest.approx(epsilon([event] * 3, 1e-4))
    assert life.limit is None, "its policy is not in the run"
    (found,) = (d for d in report.data_sets if d.hospital == "delta")
    assert (found.fingerprint, found.studies, found.releases) == (DATASET, 2, 3)
    assert budget(report, "delta").pld == epsilon([event] * 2, 1e-4), "this study's alone"
    assert next(one.limit for one in report.lifetimes if one.hospital == "alpha") == 3.0


def test_a_lifetime_above_the_hospitals_limit_fails(run: Run) -> None:
    path = run.root / "hospitals" / "alpha" / "policy.toml"
    path.write_text('metrics = "pooled"\nlifetime_epsilon = 0.01\n')
    report = gather(Inputs(run.root), NOW)
    assert not report.holds
    assert ("lifetime within the policy", "alpha") in {(c.name, r.subject) for c, r in report.failed}


# -- what left --------------------------------------------------------------------------------------------------------


def test_channels_say_how_and_from_what(report: AuditReport) -> None:
    rows = {(r.channel, r.mechanism): r for r in report.releases}
    update = rows["model-update", "DP-SGD: noise in every training step"]
    assert update.derived_from == ("private training in this release", "published sums")
    assert update.releases == 13
    assert update.hospitals == ("alpha", "beta", "gamma", "delta", "omega")
    assert rows["metrics", "exact counts: no noise"].releases == 4
    assert sum(r.releases for r in report.releases) == 2 * 13 + 4, "a round sends what it has to say and nothing else"
    # Two tiers train with figures of their own.
    assert [(m.what, m.times) for m in report.mechanisms] == [
        ("DP-SGD training", 6),
        ("Exact counts, no noise", 4),
        ("DP-SGD training", 7),
    ]


def test_exact_counts_are_named_loudly(report: AuditReport) -> None:
    (found,) = report.without_privacy
    assert found.title == "Exact counts on channel metrics"
    assert "In round 4 exact counts left alpha, beta, gamma and omega, inside" in found.text
    assert "at least 3 hospitals" in found.text
    paths = {f.anchor: f.path for f in report.files}
    assert [paths[a] for a in found.evidence] == [
        f"hospitals/{name}/ledger.jsonl" for name in ("alpha", "beta", "gamma", "omega")
    ]


def test_noise_from_a_seed_and_research_mode_are_named(tmp_path: Path) -> None:
    plan = example_plan(study__mode="research")
    run = make_run(tmp_path / "run", plan, rounds=1)
    run.ledger("beta").unlink()
    output = PrivateOutput(
        channels={c.name: [0.0] * c.length for c in plan.channels},  # type: ignore[misc]
        events=(planned_event(plan.privacy_of("beta")),),
        proofs=proofs(plan),
        noise_source="seeded-research",
    )
    with Ledger.open(run.ledger("beta"), "beta", run.scribe.hospitals["beta"], lambda: NOW) as ledger:
        gate = ReleaseGate(ledger, plan, "beta", Allowed(DATASET))
        gate.reserve(0)
        gate.release(0, output)
    titles = [d.title for d in gather(Inputs(run.root), NOW).without_privacy]
    assert titles == ["Noise from a seed", "Research mode: figures left the hospitals in clear"]


# -- canaries ---------------------------------------------------------------------------------------------------------


def test_without_canaries_it_says_not_measured_and_how(report: AuditReport) -> None:
    assert report.empirical.said.startswith("Not measured")
    assert "audit canary" in report.empirical.said
    assert report.empirical.measurements == ()


def test_what_canaries_found_stands_beside_the_claim(told: Run, canaries: Path) -> None:
    report = gather(Inputs(told.root, canary=canaries), NOW)
    assert report.holds
    first, second, planted = report.empirical.measurements
    assert (first.figures, second.figures) == ("this plan's, small tier", "chosen for the audit")
    assert (first.claimed, first.lower_bound, first.ok) == (2.0, 0.5, True)
    assert (planted.planted, planted.ok) == ("noise halved", True)
    assert "No claim was refuted" in report.empirical.said
    assert "no proof" in report.empirical.said
    assert "Of 1 mistake planted on purpose 1 were caught." in report.empirical.said
    assert report.files[-1].what == "canaries"


def test_figures_of_another_plan_are_called_that(told: Run, tmp_path: Path) -> None:
    write_results(tmp_path / "canary.json", [canary(plan="0" * 64, tier="large")])
    (found,) = gather(Inputs(told.root, canary=tmp_path / "canary.json"), NOW).empirical.measurements
    assert found.figures == "another plan's"


def test_noise_on_counts_is_described_with_its_size() -> None:
    what, parameters = described(Gaussian(noise_multiplier=5.0, sensitivity=2.0))
    assert what == "Gaussian noise on an answer"
    assert "standard deviation 10" in parameters


def test_a_refuted_claim_and_a_missed_mistake_fail(told: Run, canaries: Path) -> None:
    values = json.loads(canaries.read_bytes())
    values[0] |= {"lower_bound": 2.5, "holds": False}
    values[2] |= {"lower_bound": 1.0, "holds": True}
    canaries.write_text(json.dumps(values))
    report = gather(Inputs(told.root, canary=canaries), NOW)
    assert [c.name for c, _ in report.failed] == ["no claim is refuted by canaries", "a planted mistake is caught"]
    assert "refuted" in report.empirical.said
    assert "No claim was refuted" not in report.empirical.said


# -- the files --------------------------------------------------------------------------------------------------------

LOOK = """
import sys
from pathlib import Path
opened = []
root = str(Path(sys.argv[1]).resolve())
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(root):
        opened.append(arguments[0][len(root) + 1:])
sys.addaudithook(watch)
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.sources import Inputs
report = gather(Inputs(Path(root)), 1_800_000_000.0)
print(*sorted(set(opened)), sep="\\n")
print("---")
print(*sorted(f.path for f in report.files), sep="\\n")
"""


def test_every_file_that_is_read_is_listed_and_no_other(told: Run) -> None:
    """No private key and no record is opened, and nothing that decides is left out of the list."""
    done = subprocess.run([sys.executable, "-c", LOOK, str(told.root)], capture_output=True, text=True, check=True)
    opened, listed = (part.split() for part in done.stdout.split("---"))
    assert opened == listed
    assert "hospitals/alpha/policy.toml" in listed


def test_hashes_are_those_of_the_files(told: Run, report: AuditReport) -> None:
    assert [f.anchor for f in report.files] == [f"file-{n}" for n in range(1, len(report.files) + 1)]
    for file in report.files:
        content = (told.root / file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_auditors_own_certificate_is_used_and_listed(told: Run, tmp_path: Path) -> None:
    own = tmp_path / "from-the-consortium.crt"
    own.write_bytes(told.consortium.ca_pem)
    report = gather(Inputs(told.root, ca=own), NOW)
    assert report.holds
    assert report.study is not None
    assert report.study.ca_of_auditor
    assert report.files[1].path == "from-the-consortium.crt (the auditor's)"
    assert "run's own copy" not in report.said
    assert not any(one.title == "The authority is the run's own" for one in report.limits)
    assert str(tmp_path) not in report.model_dump_json(), "no path of the machine"
