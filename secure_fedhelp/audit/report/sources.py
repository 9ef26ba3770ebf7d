"""The files behind a report: each is read once more to be hashed, and everything that can be wrong is a finding.

Beside what :mod:`secure_fedhelp.audit.verify` reads: what a canary audit found. No private key and no record is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from secure_fedhelp.audit.canary.results import CanaryResult, read_results
from secure_fedhelp.audit.report.model import EvidenceFile, plain
from secure_fedhelp.audit.verify import Finding, Run, examine_run
from secure_fedhelp.errors import FedHelpError, StorageError
from secure_fedhelp.identity.certificates import certificate_fingerprint
from secure_fedhelp.study.plan import load_plan
from secure_fedhelp.study.reading import (
    CERTIFICATE,
    LEDGER,
    PLAN,
    ROSTER,
    SETTINGS,
    STATUS,
    TRANSCRIPT,
    Kind,
    hash_bounded,
    read_bounded,
)

_KINDS: dict[str, Kind] = {
    "plan": PLAN,
    "authority": CERTIFICATE,
    "roster": ROSTER,
    "transcript": TRANSCRIPT,
    "ledger": LEDGER,
    "policy": SETTINGS,
    "settings": SETTINGS,
    "canaries": STATUS,
}


@dataclass(frozen=True)
class Inputs:
    """Where to look: the run's folder, the auditor's own ``ca.crt``, the JSON of a canary audit.

    ``prv``: whether to ask Opacus' PRV accountant too, which takes torch.
    """

    folder: Path
    ca: Path | None = None
    canary: Path | None = None
    prv: bool = False


@dataclass
class Sources:
    """What was read and verified, and every finding. ``run`` is None if there is no run to check."""

    inputs: Inputs
    run: Run | None = None
    findings: list[Finding] = field(default_factory=list)
    canaries: list[CanaryResult] = field(default_factory=list)
    ca_fingerprint: str | None = None
    files: tuple[EvidenceFile, ...] = ()

    def fail(self, subject: str, check: str, error: FedHelpError) -> None:
        message = error.message
        for path in (self.inputs.folder, self.inputs.ca, self.inputs.canary):
            # By its name: the machine's folders say nothing to a reader of the page. "." has none, and ends sentences.
            if path is not None and path.name:
                message = message.replace(str(path), path.name)
        self.findings.append(Finding(subject, check, False, f"{type(error).__name__}: {message}"))


def read_sources(inputs: Inputs, now: float) -> Sources:
    """Read and verify everything; ``now`` in unix seconds. Never raises for what is in the files."""
    found = Sources(inputs)
    before = list(_evidence(inputs))
    _examine(found, now)
    _read_canaries(found)
    after = list(_evidence(inputs))
    changed = [file.path for file, again in zip(before, after, strict=False) if file.sha256 != again.sha256]
    same = len(before) == len(after) and not changed
    detail = f"{len(before)} files" if same else f"changed meanwhile: {', '.join(changed) or 'a file came or went'}"
    found.findings.append(Finding("files", "unchanged while they were read", same, detail))
    found.files = tuple(before)
    return found


def _examine(found: Sources, now: float) -> None:
    try:
        ca = None if found.inputs.ca is None else _bytes(found.inputs.ca)
        found.run = examine_run(found.inputs.folder, now, ca)
        found.findings += found.run.findings
        authority = found.inputs.ca or next(_authorities(found.inputs.folder), None)
        if authority is not None:
            found.ca_fingerprint = certificate_fingerprint(_bytes(authority))
    except FedHelpError as error:
        found.fail("run", "the run can be read", error)
    except OSError as error:
        found.fail("run", "the run can be read", StorageError(f"cannot read {error.filename}: {error.strerror}"))


def _read_canaries(found: Sources) -> None:
    if found.inputs.canary is None:
        return
    try:
        found.canaries = read_results(found.inputs.canary)
    except FedHelpError as error:
        found.fail("canaries", "no claim is refuted by canaries", error)
        return
    for result in found.canaries:
        figures = f"lower bound {result.lower_bound:.4f}, claimed {result.claimed_epsilon:.4f}"
        subject = f"{result.kind} audit" + (f" of tier {result.tier}" if result.tier else "")
        if result.planted is None:
            check = "no claim is refuted by canaries"
        else:
            check, subject = "a planted mistake is caught", f"{subject}: {result.planted}"
        found.findings.append(Finding(subject, check, result.as_expected, figures))


# --- the list of files -----------------------------------------------------------------------------------------------


def _evidence(inputs: Inputs) -> Iterator[EvidenceFile]:
    """Every file that a report of ``inputs`` rests on; those that must be there also if they are not."""
    for number, (path, place, what) in enumerate(_places(inputs), start=1):
        size, sha256 = _measured(path, _KINDS[what])
        yield EvidenceFile(anchor=f"file-{number}", path=plain(place), what=what, bytes=size, sha256=sha256)


def _measured(path: Path, kind: Kind) -> tuple[int, str] | tuple[None, None]:
    """Length and hash of a file, as far as one of this kind can be read; the checks name what is wrong with it."""
    try:
        return hash_bounded(path, kind)
    except OSError:
        return None, None


def _places(inputs: Inputs) -> Iterator[tuple[Path, str, str]]:
    """Path, its name on the page (never that of the machine's folders), and what it is."""
    folder = inputs.folder
    yield folder / "plan.toml", "plan.toml", "plan"
    if inputs.ca is not None:
        yield inputs.ca, f"{inputs.ca.name} (the auditor's)", "authority"
    else:
        for path in _authorities(folder):
            yield path, str(path.relative_to(folder)), "authority"
            break
    yield folder / "coordinator" / "roster.json", "coordinator/roster.json", "roster"
    yield folder / "coordinator" / "transcript.jsonl", "coordinator/transcript.jsonl", "transcript"
    names = _hospitals(folder)
    for name in names:
        yield folder / "hospitals" / name / "ledger.jsonl", f"hospitals/{name}/ledger.jsonl", "ledger"
    for file, what in (("policy.toml", "policy"), ("hospital.toml", "settings")):
        for name in names:
            home = folder / "hospitals" / name
            if (home / "policy.toml").is_file() and (home / file).is_file():
                yield home / file, f"hospitals/{name}/{file}", what
    if inputs.canary is not None:
        yield inputs.canary, f"{inputs.canary.name} (given with --canary)", "canaries"


def _hospitals(folder: Path) -> list[str]:
    """The plan's, for those are the ones an audit reads."""
    try:
        return [h.name for h in load_plan(folder / "plan.toml").hospitals]
    except FedHelpError:
        return []


def _authorities(folder: Path) -> Iterator[Path]:
    return (path for path in (folder / "ca.crt", folder / "consortium" / "ca.crt") if path.is_file())


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, CERTIFICATE)
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}", "Check the path.") from error
