"""What is measured, and whether this machine can: settings, their names, and an estimate before anything starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from secure_fedhelp.errors import FedHelpError, InvalidConfiguration
from secure_fedhelp.research.bench.results import OURS, PLAINTEXT, Transport
from secure_fedhelp.secagg.profiles import PROFILES, Profile, profile
from secure_fedhelp.study.threshold import Masks

#: Contributions that are made and encrypted for themselves. Larger cohorts share them, which changes nothing of the
#: work that is measured and keeps a hundred hospitals within a small machine's memory.
LARGEST_CONTRIBUTIONS: Final = 10
#: Resident memory of an interpreter with everything loaded, ours and a peer's.
_PROCESS_BYTES: Final = 300 * 2**20
#: Float64 vectors of a contribution, a sum and their like that are held beside the bodies, and a peer's objects.
_VECTORS: Final = 8
_PEER_BYTES_PER_VALUE: Final = 400


class TooLittleMemory(FedHelpError):
    """The machine has not the memory (or the disk) for what was asked."""

    exit_code = 6
    default_hint = "Ask for fewer --values or --hospitals, or measure fewer settings at a time."


@dataclass(frozen=True)
class Setting:
    """One line of a benchmark's results."""

    system: str
    profile: str | None
    masks: Masks | None
    transport: Transport
    values: int
    hospitals: int

    @property
    def label(self) -> str:
        """In a few words, for progress."""
        words = [self.system, self.profile or "", "" if self.masks in (None, "none") else "with masks"]
        words.append("over gRPC" if self.transport == "grpc" else "")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Plan:
    """What one command measures. ``peers`` gives the Python of each other project by its name (peers.PACKAGES)."""

    values: int
    hospitals: int
    profiles: tuple[str, ...] = ("standard", "fine", "compact")
    masks: tuple[Masks, ...] = ("repairing", "none")
    transports: tuple[Transport, ...] = ("none", "grpc")
    peers: Mapping[str, Path] = field(default_factory=dict)
    repeats: int = 3
    #: Further cohort sizes at which the coordinator's memory is measured.
    memory_hospitals: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """InvalidConfiguration or InvalidPlan for a size out of range or an unknown profile."""
        if self.values < 1 or self.hospitals < 2 or self.repeats < 1:
            raise InvalidConfiguration(
                f"{self.values} values, {self.hospitals} hospitals, {self.repeats} repeats: too few to measure",
                "At least one value, two hospitals and one repeat are needed.",
            )
        if "repairing" in self.masks and self.hospitals < 3:
            raise InvalidConfiguration("masks for two hospitals hide nothing", "Use three or more, or --no-masks.")
        if not self.transports:
            raise InvalidConfiguration("no transport to measure", "Use --transport none, grpc or both.")
        for name in self.profiles:
            profile(name)

    def settings(self) -> list[Setting]:
        """Every setting of ours and the plain sum; the peers' systems are named by their own scripts."""
        size = self.values, self.hospitals
        found = []
        for transport in self.transports:
            found += [Setting(OURS, name, m, transport, *size) for name in self.profiles for m in self.masks]
            found.append(Setting(PLAINTEXT, None, None, transport, *size))
        return found


def contribution_bound(chosen: Profile, hospitals: int) -> float:
    """Bound on a value of a contribution: 0.5, or less where the profile does not hold so large a sum."""
    return min(0.5, 0.999 * chosen.largest_sum / hospitals)


def needed_memory(plan: Plan) -> int:
    """Bytes of memory that a plan takes at most at one time; an estimate, on the large side."""
    made = min(plan.hospitals, LARGEST_CONTRIBUTIONS)
    ours = sum(_material_bytes(PROFILES[name], plan.values, made) for name in plan.profiles)
    processes = 1 + len(plan.profiles) * 2  # ciphers share their work among two processes
    if "grpc" in plan.transports:
        processes += len(plan.profiles) * len(plan.masks) + 1
    largest_peer = (_PROCESS_BYTES + _PEER_BYTES_PER_VALUE * plan.values) if plan.peers else 0
    vectors = 8 * plan.values * (_VECTORS + made)
    return ours + vectors + processes * _PROCESS_BYTES // 2 + largest_peer


def _material_bytes(chosen: Profile, values: int, made: int) -> int:
    """Bodies of a profile, one more for the masks, and the residues while one is made or added."""
    residues = 8 * chosen.ciphertexts(values) * len(chosen.moduli) * chosen.ring_degree
    return (made + 2) * chosen.body_bytes(values) + 4 * residues


def needed_disk(plan: Plan) -> int:
    """Bytes of disk for bodies and sums: a real coordinator keeps every body of a round."""
    largest = max((PROFILES[name].body_bytes(plan.values) for name in plan.profiles), default=0)
    bodies = LARGEST_CONTRIBUTIONS * largest
    if "grpc" in plan.transports:
        bodies += len(plan.profiles) * len(plan.masks) * (plan.hospitals + plan.repeats) * largest
    return bodies + 2 * 80 * plan.values * plan.hospitals * bool(plan.peers)


def require_room(plan: Plan) -> None:
    """TooLittleMemory, with the estimate, before anything starts that this machine cannot finish."""
    memory, free = needed_memory(plan), available_memory()
    if memory > free:
        raise TooLittleMemory(f"about {_gib(memory)} of memory are needed, {_gib(free)} are free")
    place = Path(tempfile.gettempdir())
    disk, left = needed_disk(plan), free_disk(place)
    if disk > left:
        raise TooLittleMemory(
            f"about {_gib(disk)} of disk are needed in {place}, {_gib(left)} are free",
            "Ask for fewer --values or --hospitals, or set TMPDIR to a folder with more room.",
        )


def available_memory() -> int:
    """Bytes that can be had without swapping (Linux: MemAvailable)."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(text.split("MemAvailable:")[1].split()[0]) * 1024


def free_disk(place: Path) -> int:
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
