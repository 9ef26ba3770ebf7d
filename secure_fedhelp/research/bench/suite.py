"""All settings of one size, measured in turn: each repeat goes through all of them, so that whatever else the machine
does meanwhile falls on all alike and ratios are fair."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from secure_fedhelp.research.bench.cohort import MaskedCohort
from secure_fedhelp.research.bench.material import Material, hospital_names
from secure_fedhelp.research.bench.memory import coordinator_peak_mib
from secure_fedhelp.research.bench.peers import PeerRounds, require_peer
from secure_fedhelp.research.bench.plaintext import PlaintextRounds, PlaintextWire
from secure_fedhelp.research.bench.results import OURS, Result
from secure_fedhelp.research.bench.sealed import SealedRounds
from secure_fedhelp.research.bench.settings import Plan, Setting, require_room
from secure_fedhelp.research.bench.stopwatch import Round, Subject
from secure_fedhelp.secagg.profiles import profile
from secure_fedhelp.study.threshold import Masks

#: Told what is being done, how many steps are done, and how many there are.
Progress = Callable[[str, int, int], None]


def run_suite(plan: Plan, progress: Progress = lambda what, done, total: None) -> list[Result]:
    """Measure every setting of a plan, ours first, then plain floats, then the peers.

    Raises TooLittleMemory or InvalidConfiguration before anything is measured, PeerFailed if a peer's script breaks.
    """
    require_room(plan)
    for name, python in plan.peers.items():
        progress(f"looking for {name}", 0, 1)
        require_peer(name, python)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secure-fedhelp-bench-")))
        builder = _Builder(plan, folder, stack, progress)
        subjects = builder.subjects()
        rounds: list[list[Round]] = [[] for _ in subjects]
        total = plan.repeats * len(subjects)
        for repeat in range(plan.repeats):
            for place, subject in enumerate(subjects):
                what = f"repeat {repeat + 1} of {plan.repeats}: {subject.setting.label}"
                progress(what, repeat * len(subjects) + place, total)
                rounds[place].append(subject.measure())
        peaks = builder.peaks()
    progress("done", total, total)
    taken = {subject.setting: measured for subject, measured in zip(subjects, rounds, strict=True)}
    return [
        summarise(setting, measured, peaks.get(setting, {}), taken.get(replace(setting, masks="none")))
        for setting, measured in taken.items()
    ]


def summarise(
    setting: Setting, rounds: Sequence[Round], peaks: Mapping[int, float], unmasked: Sequence[Round] | None = None
) -> Result:
    """One result from a setting's rounds: medians of the seconds, the largest of errors and peaks.

    ``unmasked`` are the rounds of the same setting without masks, one beside each: what masks cost is compared within
    a repeat, because a machine's speed drifts over minutes by more than that.
    """
    paths = [found.critical_path for found in rounds]
    own = [r.coordinator_peak_mib for r in rounds if r.coordinator_peak_mib is not None]
    peak = peaks.get(setting.hospitals, max(own, default=None))
    released = [r.sanitised_error for r in rounds if r.sanitised_error is not None]
    return Result(
        system=setting.system,
        profile=setting.profile,
        masks=setting.masks,
        transport=setting.transport,
        values=setting.values,
        hospitals=setting.hospitals,
        figures="measured",
        seconds={stage: statistics.median(r.seconds[stage] for r in rounds) for stage in rounds[0].seconds},
        critical_path_s=statistics.median(paths),
        critical_path_min_s=min(paths),
        critical_path_max_s=max(paths),
        over_no_masks=_over(rounds, unmasked) if setting.masks not in (None, "none") else None,
        up_bytes_per_value=statistics.median(r.up_bytes for r in rounds) / setting.values,
        down_bytes_per_value=statistics.median(r.down_bytes for r in rounds) / setting.values,
        coordinator_peak_mib=peak,
        coordinator_peaks_mib={hospitals: mib for hospitals, mib in peaks.items() if hospitals != setting.hospitals},
        max_error=max(r.max_error for r in rounds),
        sanitised_error=max(released, default=None),
        repeats=len(rounds),
        contributions=rounds[0].contributions,
        cores=len(os.sched_getaffinity(0)),
        versions={"python": platform.python_version(), **rounds[0].versions},
    )


def _over(rounds: Sequence[Round], unmasked: Sequence[Round] | None) -> float | None:
    if not unmasked:
        return None
    return statistics.median(a.critical_path / b.critical_path for a, b in zip(rounds, unmasked, strict=True))


class _Builder:
    """Everything that is made before the clock runs, ended by ``stack``."""

    def __init__(self, plan: Plan, folder: Path, stack: ExitStack, progress: Progress) -> None:
        self._plan, self._folder, self._stack, self._progress = plan, folder, stack, progress
        self._materials: dict[str, Material] = {}
        self._cohorts: dict[Masks, MaskedCohort] = {}

    def subjects(self) -> list[Subject]:
        plan = self._plan
        found: list[Subject] = []
        for setting in plan.settings():
            self._progress(f"preparing {setting.label}", 0, 1)
            found.append(self._ours(setting) if setting.system == OURS else self._plaintext(setting))
        found += [PeerRounds(name, python, plan.values, plan.hospitals) for name, python in plan.peers.items()]
        return found

    def peaks(self) -> dict[Setting, dict[int, float]]:
        """Peak memory of the coordinator's arithmetic, for our settings without transport."""
        found: dict[Setting, dict[int, float]] = {}
        for setting in self._plan.settings():
            if setting.system == OURS and setting.transport == "none":
                material = self._material(str(setting.profile))
                found[setting] = {}
                for hospitals in sorted({setting.hospitals, *self._plan.memory_hospitals}):
                    self._progress(f"memory of the coordinator, {hospitals} hospitals: {setting.label}", 1, 1)
                    found[setting][hospitals] = coordinator_peak_mib(
                        material.profile, setting.values, material.bodies, hospitals, setting.masks != "none"
                    )
        return found

    def _ours(self, setting: Setting) -> Subject:
        material, masks = self._material(str(setting.profile)), setting.masks or "none"
        if setting.transport == "none":
            return SealedRounds(material, None if masks == "none" else self._cohort(masks))
        from secure_fedhelp.research.bench.wired import WiredRounds  # consortium and client: only where asked for

        folder = self._folder / f"{setting.profile}-{masks}"
        return self._stack.enter_context(WiredRounds(material, masks, folder, self._plan.repeats))

    def _plaintext(self, setting: Setting) -> Subject:
        if setting.transport == "none":
            return PlaintextRounds(setting.values, setting.hospitals)
        from secure_fedhelp.research.bench.study import borrowed_identity

        server, key_file, client = borrowed_identity(self._folder / "plaintext")
        wire = PlaintextWire(setting.values, setting.hospitals, server, key_file, client)
        return self._stack.enter_context(wire)

    def _cohort(self, masks: Masks) -> MaskedCohort:
        """One for all profiles: its messages do not depend on what is masked."""
        if masks not in self._cohorts:
            self._cohorts[masks] = MaskedCohort(hospital_names(self._plan.hospitals), masks)
        return self._cohorts[masks]

    def _material(self, name: str) -> Material:
        if name not in self._materials:
            plan = self._plan
            material = Material(profile(name), plan.values, plan.hospitals)
            self._materials[name] = self._stack.enter_context(material)
        return self._materials[name]
