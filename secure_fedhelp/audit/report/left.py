"""What left the hospitals in this study, by channel; and, loudly, what left without differential privacy."""

from __future__ import annotations

from collections.abc import Sequence

from secure_fedhelp.audit.report.model import Disclosure, EvidenceFile, ReleaseRow, plain
from secure_fedhelp.audit.report.people import names
from secure_fedhelp.audit.report.words import ranges
from secure_fedhelp.audit.verify import Run
from secure_fedhelp.privacy.entries import Release, releases
from secure_fedhelp.privacy.mechanisms import PooledExact

_HOW = {
    "dp-sgd": "DP-SGD: noise in every training step",
    "gaussian": "Gaussian noise on the answer",
    "pooled-exact": "exact counts: no noise",
    "post-processing": "computed from what was paid for",
    "public": "zeros: the training came to nothing, and was paid for",
}
_SOURCE = {
    "public:plan": "the plan",
    "public:public-set": "the public set",
    "public:teacher": "the foundation model's answers on the public set",
    "public:transcript": "published sums",
}
_EVENT = {"dp-sgd": "private training", "gaussian": "a noised answer", "pooled-exact": "a count of records"}


def channels(run: Run) -> tuple[ReleaseRow, ...]:
    """One row for each way in which something left on a channel."""
    rows: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for name, entry in _study(run):
        for channel in entry.channels:
            sources = tuple(dict.fromkeys(_source(entry, s) for s in channel.derived_from))
            key = (channel.name, _HOW.get(channel.mechanism, channel.mechanism), sources)
            rows.setdefault(key, []).append(name)
    return tuple(
        ReleaseRow(
            channel=plain(channel),
            mechanism=how,
            derived_from=sources,
            hospitals=tuple(dict.fromkeys(by)),
            releases=len(by),
        )
        for (channel, how, sources), by in sorted(rows.items())
    )


def without_privacy(run: Run, files: Sequence[EvidenceFile]) -> tuple[Disclosure, ...]:
    """Everything in plan and ledgers that has no epsilon, or none that protects."""
    plan_file = tuple(file.anchor for file in files if file.what == "plan")
    found = [*_exact_counts(run, files), *_known_noise(run, files)]
    if run.plan.study.mode == "research":
        found.append(
            Disclosure(
                title="Research mode: figures left the hospitals in clear",
                text="The plan is in research mode. The quality of every model on the plan's test set, and the number "
                "of patients, were written to the study's summary in clear; some of these models were trained without "
                "noise. Nothing of it is in a ledger, in an encrypted sum, or in any epsilon of this report.",
                evidence=plan_file,
            )
        )
    return tuple(found)


def _exact_counts(run: Run, files: Sequence[EvidenceFile]) -> list[Disclosure]:
    kept: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for name, entry in _study(run):
        for event in entry.events:
            if isinstance(event, PooledExact):
                for channel in (c.name for c in entry.channels if c.mechanism == "pooled-exact"):
                    kept.setdefault((channel, event.smallest_cohort), []).append((name, entry.round))
    return [
        Disclosure(
            title=plain(f"Exact counts on channel {channel}"),
            text=plain(
                f"In {ranges([number for _, number in by])} exact counts left {_names(run, by)}, inside an encrypted "
                f"sum of at least {cohort} hospitals. The sum was opened. The counts carry no noise and have no "
                "epsilon: whoever knows the counts of all the others in the sum reads those of the remaining hospital."
            ),
            evidence=_ledgers(files, [name for name, _ in by]),
        )
        for (channel, cohort), by in kept.items()
    ]


def _known_noise(run: Run, files: Sequence[EvidenceFile]) -> list[Disclosure]:
    by = [(name, entry.round) for name, entry in _study(run) if entry.noise_source != "system"]
    if not by:
        return []
    return [
        Disclosure(
            title="Noise from a seed",
            text=plain(
                f"In {ranges([number for _, number in by])} the noise of {_names(run, by)} came from a research seed. "
                "Who knows the seed can take the noise away: against them these releases have no protection, whatever "
                "epsilon is printed."
            ),
            evidence=_ledgers(files, [name for name, _ in by]),
        )
    ]


def _study(run: Run) -> list[tuple[str, Release]]:
    return [
        (h.name, entry)
        for h in run.plan.hospitals
        for entry in releases(run.ledgers.get(h.name, []))
        if entry.study == run.plan.hash
    ]


def _source(entry: Release, source: str) -> str:
    if source.startswith("event:"):
        return f"{_EVENT[entry.events[int(source[6:])].kind]} in this release"
    if source.startswith("entry:"):
        return "an earlier release of this ledger"
    return _SOURCE.get(source, source)


def _names(run: Run, by: Sequence[tuple[str, int]]) -> str:
    return names(list(dict.fromkeys(name for name, _ in by)), len(run.plan.hospitals))


def _ledgers(files: Sequence[EvidenceFile], of: Sequence[str]) -> tuple[str, ...]:
    return tuple(file.anchor for file in files if file.what == "ledger" and file.path.split("/")[1] in of)
