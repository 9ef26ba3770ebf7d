"""Words and figures for people: how numbers are printed, and plain sentences that say who gained and who did not.

The honest rival of a study is what a hospital could do alone *without noise*, because a model that never leaves needs
none; so that comparison comes first, and a loss is named as plainly as a gain.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from secure_fedhelp.pages.numbers import NOTHING as NOTHING
from secure_fedhelp.pages.numbers import count as count
from secure_fedhelp.pages.numbers import epsilon as epsilon
from secure_fedhelp.pages.numbers import size as size
from secure_fedhelp.research.summary import HospitalSummary, MetricsSummary, Summary

#: Differences in AUROC up to this are called no difference; a single run with small test sets cannot tell them apart.
TIE = 0.01

#: The four models of a result, in the order in which they are shown: key in the summary, heading, explanation.
MODELS = (
    ("local_only", "local, same ε", "trained on the hospital's own records alone, with the same epsilon"),
    ("local_non_private", "local, no noise", "trained on the hospital's own records alone, without any noise"),
    ("study_model", "shared", "the study's shared model after the last round"),
    ("personal_model", "personal", "the hospital's own model after the study; it never leaves the hospital"),
)


def share(value: float | None) -> str:
    """A share in [0, 1] with three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference with its sign, and a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def factor(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}×"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def metrics(hospital: HospitalSummary, model: str) -> MetricsSummary | None:
    """A hospital's metrics of one of :data:`MODELS`, by its key."""
    found: MetricsSummary | None = getattr(hospital, model)
    return found


def sentences(summary: Summary) -> list[str]:
    """Who gained and who did not, then everything that qualifies it; never empty."""
    said = [
        _compare(
            summary,
            "personal_model",
            "local_non_private",
            "Against what each hospital could train alone from nothing, without any noise, its personal model is",
        ),
        _compare(
            summary,
            "study_model",
            "local_only",
            "Against training alone with the same epsilon, the shared model is",
        ),
        _against_public(summary),
    ]
    compared = [s for s in said if s]
    if not compared:
        compared = ["No local baselines were measured in this run, so it cannot say who gained."]
    others = (_dice(summary), _pooled(summary), _budgets(summary), _failed(summary), _absent(summary))
    return compared + [sentence for sentence in others if sentence]


def caveat(summary: Summary) -> str | None:
    """What one run cannot show; None if nothing was compared."""
    if not any(h.local_only or h.local_non_private for h in summary.hospitals) and summary.public_only is None:
        return None
    return (
        f"This is one run with one seed; differences of AUROC up to {TIE:g} count as none, and larger ones can"
        " still be chance. Several seeds with confidence intervals: secure-fedhelp sweep."
    )


def _dice(summary: Summary) -> str | None:
    """Of a segmentation, the figure that its field asks for."""
    parts = []
    for key, heading, _ in MODELS:
        found = [m.dice for h in summary.hospitals if (m := metrics(h, key)) is not None and m.dice is not None]
        if found:
            low, high = share(min(found)), share(max(found))
            parts.append(f"{heading} {low}" if low == high else f"{heading} {low} to {high}")
    if summary.public_only is not None and summary.public_only.dice is not None:
        parts.append(f"public set only {share(summary.public_only.dice)}")
    return f"Dice coefficient, the mean over test images: {'; '.join(parts)}." if parts else None


def _pooled(summary: Summary) -> str | None:
    found = summary.pooled
    if found is None or found.auroc is None or found.balanced_accuracy is None:
        return None
    return (
        f"On {found.records:.0f} patients whom no hospital trained on, counted together, the shared model reaches AUROC"
        f" {found.auroc:.3f} and balanced accuracy {found.balanced_accuracy:.3f}; no hospital's own figure left it."
    )


def _budgets(summary: Summary) -> str | None:
    """Whose budget ended when. They kept to it, as they should, and the sums after it are of fewer hospitals."""
    ended = [(h.name, h.status.removeprefix("budget ")) for h in summary.hospitals if h.status.startswith("budget")]
    if not ended:
        return None
    parts = ", ".join(f"of {name} {'was ' if when.startswith('spent') else ''}{when}" for name, when in ended)
    who, them = ("it", "it") if len(ended) == 1 else ("they", "them")
    return f"The budget {parts}: {who} stopped before training any further, and the others went on without {them}."


def _absent(summary: Summary) -> str | None:
    absent = [f"{h.name} {h.status}" for h in summary.hospitals if h.status.startswith("absent")]
    return f"Not everybody was there to the end: {'; '.join(absent)}." if absent else None


def _failed(summary: Summary) -> str | None:
    """Whose training failed: what it would have released was paid for, and the sum is of the others."""
    failed = [
        f"{h.name}'s {h.status.removeprefix('training ')}" for h in summary.hospitals if h.status.startswith("training")
    ]
    if not failed:
        return None
    return f"Of the hospitals' training {', '.join(failed)}: it was paid for, and the sums went on without it."


def _compare(summary: Summary, model: str, rival: str, opening: str) -> str | None:
    """One sentence on ``model`` against ``rival`` over all hospitals where both were measured."""
    gains: dict[str, float] = {}
    for hospital in summary.hospitals:
        ours, theirs = metrics(hospital, model), metrics(hospital, rival)
        if ours is not None and theirs is not None:
            gains[hospital.name] = round(ours.auroc - theirs.auroc, 6)
    if not gains:
        return None
    groups: list[tuple[str, Callable[[float], bool]]] = [
        ("better at", lambda gain: gain > TIE),
        ("no different at", lambda gain: abs(gain) <= TIE),
        ("worse at", lambda gain: gain < -TIE),
    ]
    parts = []
    for words, belongs in groups:
        members = {name: gain for name, gain in gains.items() if belongs(gain)}
        if members:
            parts.append(f"{words} {len(members)} of {len(gains)} ({_named(members)})")
    return f"{opening} {', '.join(parts)}; median {signed(median(gains.values()))} AUROC."


def _named(gains: dict[str, float]) -> str:
    """At most three hospitals by name, largest difference first."""
    ordered = sorted(gains.items(), key=lambda item: -abs(item[1]))
    listed = ", ".join(f"{name} {signed(gain)}" for name, gain in ordered[:3])
    return listed if len(ordered) <= 3 else f"{listed} and {len(ordered) - 3} more"


def _against_public(summary: Summary) -> str | None:
    shared = [h.study_model.auroc for h in summary.hospitals if h.study_model is not None]
    if summary.public_only is None or not shared:
        return None
    public, ours = summary.public_only.auroc, median(shared)
    teachers = "two teachers" if summary.second_teacher else "teacher"
    alone = f"The public set and the {teachers} alone, without any hospital, reach"
    if not summary.teacher:
        alone = "The public set alone, with neither teacher nor hospital, reaches"
    opening = f"{alone} AUROC {public:.3f}; the shared model"
    if ours - public > TIE:
        return f"{opening} reaches {ours:.3f}."
    if ours - public >= -TIE:
        return f"{opening} reaches {ours:.3f}, so this run does not show that the hospitals' records improved it."
    return f"{opening} reaches only {ours:.3f}: in this run the hospitals' noisy updates made it worse."
