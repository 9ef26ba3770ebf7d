"""``audit.html``: one self-contained page, drawn from the report's content and nothing else.

No script, no font, no picture from elsewhere; the page's own content security policy forbids them. All values are
escaped by Jinja2 or :mod:`markupsafe`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby

from secure_fedhelp.audit.report import words
from secure_fedhelp.audit.report.figures import figures
from secure_fedhelp.audit.report.layout import SECTIONS
from secure_fedhelp.audit.report.model import AuditReport, Control, Link, to_json
from secure_fedhelp.audit.report.promise import THIS_PLAN
from secure_fedhelp.pages import numbers
from secure_fedhelp.pages.html import environment
from secure_fedhelp.study.canonical import sha256_hex

_STATES = {"holds": "✓ Checked here, holds", "failed": "✗ Checked here, failed", "unchecked": "Not checked here"}
#: Rounds in the table of epsilon by round; all are in the JSON and the chart.
_COLUMNS = 12
_KINDS = {"check": "Checks:", "file": "Files:", "section": "See", "figure": "See", "test": "Tests:"}


def render(report: AuditReport) -> str:
    """The page as HTML."""
    return (
        environment("secure_fedhelp.audit.report")
        .get_template("audit.html")
        .render(
            r=report,
            w=words,
            n=numbers,
            sections=SECTIONS,
            figures=figures(report),
            states=_STATES,
            all_rounds=len({p.round for b in report.budgets for p in b.curve}),
            prv=any(b.prv for b in report.budgets),
            attack=_attack(report),
            # What each kind of audit covers, said once.
            covers=list(dict.fromkeys((m.kind, m.statement) for m in report.empirical.measurements)),
            evidence=_evidence,
            total=sum(len(check.results) for check in report.checks),
            rounds=words.spread([p.round for b in report.budgets for p in b.curve], _COLUMNS),
            limits=[(group, list(of)) for group, of in groupby(report.limits, key=lambda limit: limit.group)],
            day=lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%d %B %Y, %H:%M} UTC".lstrip("0"),
            json_sha256=sha256_hex(to_json(report)),
        )
    )


def _attack(report: AuditReport) -> str:
    """What attacks on the code that trains came to, in few words; mistakes planted in it are no attacks on it."""
    real = [m for m in report.empirical.measurements if m.planted is None]
    if not real:
        return "not tried"
    if not all(m.ok for m in real):
        return "refuted"
    tiers = sorted({p.tier for p in report.participants if p.tier})
    attacked = [tier for tier in tiers if any(m.figures == f"{THIS_PLAN}, {tier} tier" for m in real)]
    if not attacked:
        return "not refuted, with other figures"
    return "not refuted" if attacked == tiers else f"not refuted, {words.listed(attacked)} tier only"


def _evidence(control: Control) -> list[tuple[str, list[Link]]]:
    """A control's links by what they point to, in words."""
    groups = groupby(control.evidence, key=lambda link: _KINDS[link.anchor.split("-")[0]])
    return [(what, list(links)) for what, links in groups]
