"""Where files are missing, cut, or of something else, a report says "not known" and never the friendlier figure."""

from __future__ import annotations

import os
from base64 import encodebytes
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from runs import Run
from stories import LATER, canary, write_policy

from secure_fedhelp.audit.canary.results import CanaryResult, write_results
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport
from secure_fedhelp.audit.report.page import render
from secure_fedhelp.audit.report.sources import Inputs
from secure_fedhelp.audit.report.words import percent_down
from secure_fedhelp.errors import WrongAuthority
from secure_fedhelp.identity import pem
from secure_fedhelp.pages import numbers
from secure_fedhelp.privacy.mechanisms import planned_event


def budget_of(report: AuditReport, name: str) -> Any:
    return next(b for b in report.budgets if b.hospital == name)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


@pytest.mark.parametrize("damage", [remove, empty, cut])
def test_a_ledger_without_what_was_published_is_not_called_cheap(damage: Any, run: Run) -> None:
    whole = gather(Inputs(run.root), LATER)
    damage(run.ledger("alpha"))
    report = gather(Inputs(run.root), LATER)
    alpha = budget_of(report, "alpha")
    assert (alpha.pld, alpha.rdp, alpha.committed, alpha.curve) == (None, None, None, ())
    assert budget_of(report, "beta") == budget_of(whole, "beta")
    assert report.guarantee is not None
    assert report.guarantee.everywhere is None


def test_without_ledger_and_transcript_nobody_knows_what_was_spent(run: Run) -> None:
    run.ledger("alpha").unlink()
    run.transcript.unlink()
    assert budget_of(gather(Inputs(run.root), LATER), "alpha").pld is None


def test_nothing_is_called_found_where_checks_failed(told: Run, run: Run) -> None:
    """The exact counts of a ledger that is broken are not seen; that they did not leave cannot be said."""
    for name in ("alpha", "beta", "gamma", "delta", "omega"):
        run.ledger(name).write_bytes(b"broken\n")
    report = gather(Inputs(run.root), LATER)
    assert report.without_privacy == ()
    page = render(report)
    assert "None found in plan and ledgers" not in page
    assert "nothing found<" not in page


def glance(told: Run, path: Path, *results: CanaryResult) -> str:
    write_results(path / "canary.json", results)
    page = render(gather(Inputs(told.root, canary=path / "canary.json"), LATER))
    return page.partition("<dt>Attack on the claim</dt><dd>")[2].partition("</dd>")[0]


def test_an_attack_on_something_else_is_no_attack_on_the_claim(told: Run, tmp_path: Path) -> None:
    ours = {"plan": told.plan.hash, "tier": "small"}
    event = planned_event(told.plan.privacy["small"])
    caught = canary(planted="noise-halved", lower_bound=3.0, holds=False)
    refuted = canary(lower_bound=3.0, holds=False)
    assert glance(told, tmp_path, caught) == "not tried"
    assert glance(told, tmp_path, caught, canary()) == "not refuted, with other figures"
    assert glance(told, tmp_path, canary(plan="0" * 64, tier="small")) == "not refuted, with other figures"
    assert glance(told, tmp_path, canary(event=event, **ours)) == "not refuted, small tier only"
    both = [canary(event=planned_event(s), plan=told.plan.hash, tier=t) for t, s in told.plan.privacy.items()]
    assert len(both) == 2
    assert glance(told, tmp_path, *both) == "not refuted"
    assert glance(told, tmp_path, canary(event=event, **ours), refuted) == "refuted"
    # The file names the plan, and was made with twice the noise.
    other = event.model_copy(update={"noise_multiplier": 2 * event.noise_multiplier})
    assert glance(told, tmp_path, canary(event=other, **ours)) == "not refuted, with other figures"


def test_what_only_caught_mistakes_says_that_the_code_was_not_attacked(told: Run, tmp_path: Path) -> None:
    write_results(tmp_path / "canary.json", [canary(planted="noise-halved", lower_bound=3.0, holds=False)])
    said = gather(Inputs(told.root, canary=tmp_path / "canary.json"), LATER).empirical.said
    assert said.startswith("The code that trains was not attacked")


def test_bounds_of_several_runs_in_one_file_share_their_error(told: Run, tmp_path: Path) -> None:
    write_results(tmp_path / "canary.json", [canary(confidence=0.95, joint_confidence=0.95)] * 3)
    said = gather(Inputs(told.root, canary=tmp_path / "canary.json"), LATER).empirical.said
    assert "confidence of 85.0 %" in said


def test_a_confidence_is_never_rounded_up() -> None:
    assert percent_down(0.9996) == "99.9 %"
    assert percent_down(1 - 0.05) == "95.0 %"


def test_a_limit_beyond_all_sense_is_printed_and_breaks_no_page(run: Run) -> None:
    write_policy(run, "beta", lifetime_epsilon=1.2345e30)
    assert "1.24E+30" in render(gather(Inputs(run.root), LATER))
    assert numbers.epsilon(999_999.991) == "1000000.00"


def test_the_folder_that_one_is_in_keeps_the_full_stops_of_a_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.transcript.unlink()
    (run.root / "plan.toml").unlink()
    monkeypatch.chdir(run.root)
    report = gather(Inputs(Path(os.curdir)), LATER)
    assert "plan.toml" in report.failed[0][1].detail


def test_an_authority_whose_key_is_no_point_of_the_curve_is_a_named_error(run: Run) -> None:
    path = next(p for p in (run.root / "ca.crt", run.root / "consortium" / "ca.crt") if p.exists())
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    der = certificate.public_bytes(Encoding.DER)
    point = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    broken = der.replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    assert broken != der
    spoilt = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(broken) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(WrongAuthority, match="key"):
        pem.read_authority(spoilt)
    path.write_bytes(spoilt)
    assert not gather(Inputs(run.root), LATER).holds
