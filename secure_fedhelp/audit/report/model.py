"""``audit.json``: everything that the page of an audit shows, in one strict, numbered format.

Rounds count from 0 here, as in the files; sentences and the page count them from 1. Texts hold no control characters
and no marks that turn the direction of writing, whoever wrote the files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from secure_fedhelp.study.plan import read_json
from secure_fedhelp.study.reading import RESULTS
from secure_fedhelp.study.sections import Sha256, Strict, Tier
from secure_fedhelp.study.threshold import Masks

FORMAT: Final = 1
_CONTROL = "\\x00-\\x1f\\x7f-\\x9f\u2028-\u202e\u2066-\u2069"
_LONGEST = 4000

Text = Annotated[str, Field(min_length=1, max_length=_LONGEST, pattern=f"^[^{_CONTROL}]+$")]
Count = Annotated[int, Field(ge=0)]
Epsilon = Annotated[float, Field(ge=0)]
Delta = Annotated[float, Field(gt=0, lt=1)]
#: What a part of the page is called in a link: ``file-3``, ``check-2``, ``figure-1``, ``section-4``, ``test-5``.
Anchor = Annotated[str, Field(pattern=r"^(file|check|figure|section|test)-[0-9]{1,4}$")]


class Result(Strict):
    """A check of one subject, and the figure or the reason."""

    subject: Text
    ok: bool
    detail: Text


class Check(Strict):
    """One kind of check: what it shows, and each time it was made."""

    anchor: Anchor
    name: Text
    shows: Text
    results: tuple[Result, ...] = Field(min_length=1)

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if not r.ok)


class EvidenceFile(Strict):
    """A file that was read: its place in the run, and the hash of what was read. Null: it could not be read."""

    anchor: Anchor
    path: Text
    what: Text
    bytes: Count | None
    sha256: Sha256 | None


class Study(Strict):
    """The plan's words."""

    name: Text
    consortium: Text
    plan_sha256: Sha256
    method: Text
    dataset: Text
    mode: Literal["research", "deployment"]
    rounds_planned: Count
    #: Null: the transcript did not verify, so nothing is known of it.
    rounds_published: Count | None
    smallest_cohort: Count
    masks: Masks
    #: Hospitals that open no upload beside a coordinator that follows the protocol, and beside one that lies.
    coalition: tuple[Count, Count]
    sums_sanitised: bool
    signatures: Text
    #: Unix seconds of the first and the last ledger entry of this study, by the hospitals' clocks.
    period: tuple[Count, Count] | None
    ca_fingerprint: Text | None
    #: Whether the auditor brought the certificate of the consortium, or took the run's own copy.
    ca_of_auditor: bool


class Participant(Strict):
    """A hospital of the plan, or the coordinator (no tier)."""

    name: Text
    role: Literal["hospital", "coordinator"]
    tier: Tier | None = None
    nominal_patients: Count | None = None
    #: SHA-256 of the public key of the member's certificate, as it is compared by telephone. Null: no valid card.
    key_fingerprint: Text | None = None
    #: The Ed25519 key that signs its ledger; null for the coordinator and without a valid card.
    ledger_key: Sha256 | None = None
    #: Rounds whose sum it is in, that it declined by a signed statement, and that it was not heard from in.
    taken_part: tuple[Count, ...] = ()
    declined: tuple[Count, ...] = ()
    absent: tuple[Count, ...] = ()
    #: One sentence on the above.
    said: Text


class Point(Strict):
    round: Count
    epsilon: Epsilon


class Budget(Strict):
    """What one hospital's ledger adds up to in this study, for each patient.

    An epsilon is null if the ledger did not verify or lacks a release that was published, or if the accountant knows no
    bound (above 500).
    """

    hospital: Text
    #: The plan's budget.
    claimed: Epsilon
    delta: Delta
    #: Recomputed: the figure of record (PLD), and the second accountant (RDP), which is a looser upper bound.
    pld: Epsilon | None
    rdp: Epsilon | None
    #: Between which figures Opacus' PRV accountant says that it lies; null where it was not asked.
    prv: tuple[Epsilon, Epsilon] | None = None
    #: PLD with what is reserved and not yet released.
    committed: Epsilon | None
    #: PLD after the release of each round.
    curve: tuple[Point, ...] = ()
    noise: tuple[Text, ...] = ()


class Mechanism(Strict):
    """The public parameters of a kind of training or answer, and who used them."""

    what: Text
    parameters: Text
    hospitals: tuple[Text, ...]
    times: Count


class Meaning(Strict):
    """What an epsilon bounds, for people; for hospitals with the same."""

    hospitals: tuple[Text, ...]
    epsilon: Epsilon
    delta: Delta
    #: e to the epsilon.
    odds: Text
    #: Largest probability, in percent, that a belief of 50 % and of 1 % can be brought to.
    from_even: Text
    from_one_percent: Text


class Guarantee(Strict):
    """The promise in plain words, a paragraph each."""

    unit: Text
    neighbours: Text
    epsilon: Text
    meanings: tuple[Meaning, ...]
    #: Epsilon of a patient whose records are at every hospital of the study; null where a ledger did not verify,
    #: or lacks a release that was published.
    everywhere: Epsilon | None
    everywhere_delta: Delta | None


class Measurement(Strict):
    """An empirical lower bound from canaries, beside what was claimed for the very same training."""

    kind: Literal["white-box", "black-box", "game"]
    #: A mistake planted on purpose, which had to be caught; null: the code that trains.
    planted: Text | None
    #: Whose figures were trained with: this plan's tier, or others.
    figures: Text
    #: What one of its trainings executed; ``claimed`` is the epsilon of that, not of a whole study.
    training: Text
    claimed: Epsilon
    delta: Delta
    #: With probability ``confidence`` it is not more private than DP-SGD of this epsilon, at the same rate and steps.
    lower_bound: Epsilon
    #: The same without an assumption on the mechanism: mostly looser.
    assumption_free_bound: Epsilon
    confidence: Annotated[float, Field(gt=0, lt=1)]
    trainings: Count
    canaries: Count
    #: The claim was not refuted, or the planted mistake was caught.
    ok: bool
    statement: Text


class Empirical(Strict):
    said: Text
    measurements: tuple[Measurement, ...] = ()


class ReleaseRow(Strict):
    """What left on a channel: how it was made, from what, by whom and how often."""

    channel: Text
    mechanism: Text
    derived_from: tuple[Text, ...]
    hospitals: tuple[Text, ...]
    releases: Count


class Disclosure(Strict):
    """Something that left, or may have left, without differential privacy."""

    title: Text
    text: Text
    evidence: tuple[Anchor, ...] = ()


class DataSet(Strict):
    """A set of patients, by a fingerprint under a secret of the hospital, and what all studies released of it."""

    hospital: Text
    fingerprint: Sha256
    studies: Count
    releases: Count
    epsilon: Epsilon | None


class Lifetime(Strict):
    """Everything in one hospital's ledger, as if all its data sets were the same patients, and the hospital's limit."""

    hospital: Text
    epsilon: Epsilon | None
    delta: Delta
    #: Null: the hospital's policy is not among the files.
    limit: Epsilon | None


class Limit(Strict):
    """Something this report, or what it audits, does not cover."""

    group: Text
    title: Text
    text: Text


class Link(Strict):
    """A pointer to evidence on this page."""

    label: Text
    anchor: Anchor


class Control(Strict):
    """One requirement: what supports it here, what stays with the organisation, and the evidence.

    ``state``: the checks behind it hold, or some failed, or none was made for this report (tests and design only).
    """

    reference: Text
    requirement: Text
    supports: Text
    remains: Text
    #: Empty only if the run has none of the files and checks that it would point to.
    evidence: tuple[Link, ...]
    state: Literal["holds", "failed", "unchecked"]


class Framework(Strict):
    name: Text
    source: Text
    url: Annotated[str, Field(pattern=r"^https://[a-zA-Z0-9./_-]{4,120}$")]
    note: Text
    controls: tuple[Control, ...]


class TestReference(Strict):
    """A test of the software that shows what a file cannot."""

    anchor: Anchor
    name: Text
    shows: Text


class AuditReport(Strict):
    format: Literal[1] = FORMAT
    software: Text
    #: Unix seconds when this report was made.
    made: Count
    run: Text
    holds: bool
    said: Text
    study: Study | None
    participants: tuple[Participant, ...]
    guarantee: Guarantee | None
    mechanisms: tuple[Mechanism, ...]
    budgets: tuple[Budget, ...]
    empirical: Empirical
    releases: tuple[ReleaseRow, ...]
    without_privacy: tuple[Disclosure, ...]
    data_sets: tuple[DataSet, ...]
    lifetimes: tuple[Lifetime, ...]
    limits: tuple[Limit, ...]
    frameworks: tuple[Framework, ...]
    checks: tuple[Check, ...] = Field(min_length=1)
    files: tuple[EvidenceFile, ...]
    tests: tuple[TestReference, ...]

    @property
    def failed(self) -> tuple[tuple[Check, Result], ...]:
        return tuple((check, result) for check in self.checks for result in check.failed)


def plain(words: str) -> str:
    """``words`` as a Text: control characters become a question mark, and what is too long is cut."""
    clean = re.sub(f"[{_CONTROL}]", "?", words) or "?"
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"


def to_json(report: AuditReport) -> bytes:
    """The file's bytes: keys in the order above."""
    return (json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_report(path: Path) -> AuditReport:
    """Read ``audit.json``; InvalidConfiguration names what is wrong."""
    return read_json(path, AuditReport, "Give the JSON that 'secure-fedhelp audit report' wrote.", RESULTS)
