"""From the files of a run to the content of its report. Pure but for reading files: time is passed in."""

from __future__ import annotations

from secure_fedhelp import __version__
from secure_fedhelp.audit.report import budget, evidence, left, people, promise
from secure_fedhelp.audit.report.layout import drawn
from secure_fedhelp.audit.report.limits import limits
from secure_fedhelp.audit.report.model import AuditReport, Study, plain
from secure_fedhelp.audit.report.sources import Inputs, Sources, read_sources
from secure_fedhelp.audit.report.words import counted
from secure_fedhelp.audit.verify import Run


def gather(inputs: Inputs, now: float) -> AuditReport:
    """Everything about the run at ``now`` (unix seconds), whatever state its files are in."""
    found = read_sources(inputs, now)
    run, files = found.run, found.files
    budgets = budget.budgets(run, inputs.prv) if run else ()
    who = people.participants(run) if run else ()
    canaries = promise.empirical(found.canaries, run)
    checks = evidence.checks(found.findings)
    failed = sum(len(check.failed) for check in checks)
    return AuditReport(
        software=f"Secure FedHelp {__version__}",
        made=int(now),
        run=plain(inputs.folder.resolve().name),
        holds=not failed,
        said=_said(found, failed),
        study=_study(found, run) if run else None,
        participants=who,
        guarantee=promise.guarantee(run, budgets) if run else None,
        mechanisms=budget.mechanisms(run) if run else (),
        budgets=budgets,
        empirical=canaries,
        releases=left.channels(run) if run else (),
        without_privacy=left.without_privacy(run, files) if run else (),
        data_sets=budget.data_sets(run) if run else (),
        lifetimes=budget.lifetimes(run) if run else (),
        limits=limits(found),
        frameworks=evidence.frameworks(checks, files, drawn(who, budgets, canaries)),
        checks=checks,
        files=files,
        tests=evidence.tests(),
    )


def _said(found: Sources, failed: int) -> str:
    total = len(found.findings)
    if failed:
        first = (
            f"{failed} of {counted(total, 'check')} failed. Do not rely on the figures below before that is explained."
        )
    else:
        first = f"All {total} checks of the run's files hold."
    if found.inputs.ca is None and found.run is not None:
        first += " They were judged by the run's own copy of the consortium's certificate."
    return first


def _study(found: Sources, run: Run) -> Study:
    plan = run.plan
    times = [e.time for entries in run.ledgers.values() for e in entries if e.study == plan.hash]
    return Study(
        name=plan.study.name,
        consortium=plan.consortium,
        plan_sha256=plan.hash,
        method=plan.method.name,
        dataset=plain(plan.data.dataset),
        mode=plan.study.mode,
        rounds_planned=plan.study.rounds,
        rounds_published=len(run.transcript) if run.transcript_verified else None,
        smallest_cohort=plan.aggregation.minimum_cohort,
        masks=plan.aggregation.masks,
        coalition=plan.coalition,
        sums_sanitised=plan.aggregation.decrypted == "sanitised",
        signatures=plan.study.signatures,
        period=(min(times), max(times)) if times else None,
        ca_fingerprint=found.ca_fingerprint,
        ca_of_auditor=found.inputs.ca is not None,
    )
