"""One run with a history, copies to damage, and reports of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import Run, make_run
from stories import LATER, canary, publish, story_plan, write_policy

from secure_fedhelp.audit.canary.results import write_results
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.model import AuditReport
from secure_fedhelp.audit.report.sources import Inputs


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Not to be changed: ``run`` is a copy."""
    run = make_run(tmp_path_factory.mktemp("told") / "lungs-run", story_plan(), rounds=0)
    publish(run, ["alpha", "beta", "delta", "gamma", "omega"])
    publish(run, ["alpha", "beta", "delta", "omega"])
    publish(run, ["alpha", "beta", "gamma", "omega"], declined=["delta"])
    publish(run, ["alpha", "beta", "gamma", "omega"], left=["delta"])
    for name in ("alpha", "beta", "gamma", "omega"):
        write_policy(run, name)
    return run


@pytest.fixture
def run(told: Run, tmp_path: Path) -> Run:
    """A copy to damage."""
    shutil.copytree(told.root, tmp_path / "lungs-run")
    scribe = replace(told.scribe, lines=list(told.scribe.lines))
    return Run(tmp_path / "lungs-run", told.plan, scribe, told.consortium)


@pytest.fixture(scope="session")
def report(told: Run) -> AuditReport:
    return gather(Inputs(told.root), LATER)


@pytest.fixture
def canaries(told: Run, tmp_path: Path) -> Path:
    """A file of three audits: one of this plan, one of chosen figures, and a planted mistake that was caught."""
    results = [
        canary(plan=told.plan.hash, tier="small"),
        canary(kind="black-box", lower_bound=0.125),
        canary(planted="noise-halved", lower_bound=3.5, holds=False),
    ]
    write_results(tmp_path / "canary.json", results)
    return tmp_path / "canary.json"


@pytest.fixture(scope="session")
def damaged(told: Run, tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """The report of a run in which one ledger lost its last entries and another was replaced."""
    root = tmp_path_factory.mktemp("damaged") / "lungs-run"
    shutil.copytree(told.root, root)
    ledger = root / "hospitals" / "beta" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-2]))
    (root / "hospitals" / "gamma" / "ledger.jsonl").write_bytes(b"{}\n")
    return gather(Inputs(root), LATER)


@pytest.fixture(scope="session")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """The report of an empty folder."""
    return gather(Inputs(tmp_path_factory.mktemp("nothing")), LATER)
