"""Ratios are fair only if all settings share the machine's moods; and nothing starts that cannot end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan
from secure_fedhelp.research.bench import settings, suite
from secure_fedhelp.research.bench.peers import PeerRounds
from secure_fedhelp.research.bench.results import OURS, PLAINTEXT
from secure_fedhelp.research.bench.settings import (
    Plan,
    Setting,
    TooLittleMemory,
    contribution_bound,
    needed_disk,
    needed_memory,
    require_room,
)
from secure_fedhelp.research.bench.stopwatch import Round
from secure_fedhelp.research.bench.suite import run_suite, summarise
from secure_fedhelp.secagg.profiles import PROFILES

TINY = Plan(values=1500, hospitals=3, profiles=("compact",), transports=("none",), repeats=2)
SETTING = Setting(OURS, "standard", "none", "none", 1000, 10)


def a_round(seconds: float, error: float = 1e-9, **changes: Any) -> Round:
    return Round({"upload.encrypt": seconds, "coordinator.add": 1.0}, 7000.0, 7100.0, error, **changes)


def test_a_small_suite_measures_every_setting_once_a_repeat(
    present_packages: Path, fake_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"system": "nvflare-he", "seconds": {"upload.encrypt": 1.0}, "max_error": 1e-9, "coordinator_peak_mib": None}
    line |= {"up_bytes_per_value": 70.0, "down_bytes_per_value": 70.0, "versions": {}}
    scripts = fake_peer(f"import json\nprint(json.dumps({line!r}))")
    monkeypatch.setattr(suite, "PeerRounds", partial(PeerRounds, scripts=scripts))
    monkeypatch.setattr(suite, "require_peer", lambda name, python: None)
    steps: list[str] = []
    plan = replace(TINY, peers={"nvflare": present_packages}, memory_hospitals=(5,))
    plan = replace(plan, masks=("repairing",), transports=("none", "grpc"))
    results = run_suite(plan, lambda what, done, total: steps.append(what))
    assert [(r.system, r.masks, r.transport) for r in results] == [
        (OURS, "repairing", "none"),
        (PLAINTEXT, None, "none"),
        (OURS, "repairing", "grpc"),
        (PLAINTEXT, None, "grpc"),
        ("nvflare-he", None, "none"),
    ]
    for result in results:
        assert (result.values, result.hospitals, result.repeats) == (1500, 3, 2)
        assert result.figures == "measured"
        assert "python" in result.versions
    alone, plain, wired, *_ = results
    assert alone.coordinator_peak_mib is not None
    assert wired.coordinator_peak_mib is not None
    assert alone.coordinator_peak_mib < wired.coordinator_peak_mib  # which has gRPC and a journal
    assert list(alone.coordinator_peaks_mib) == [5]
    assert plain.coordinator_peak_mib is None
    taken = [step for step in steps if step.startswith("repeat")]
    assert [step.split(":")[0] for step in taken] == ["repeat 1 of 2"] * 5 + ["repeat 2 of 2"] * 5


@dataclass
class Recorder:
    """A subject that writes down when it was measured."""

    name: str
    order: list[str] = field(default_factory=list)

    @property
    def setting(self) -> Setting:
        return replace(SETTING, system=self.name)

    def measure(self) -> Round:
        self.order.append(self.name)
        return a_round(1.0)


def test_settings_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(suite._Builder, "subjects", lambda self: [Recorder("a", order), Recorder("b", order)])
    monkeypatch.setattr(suite._Builder, "peaks", lambda self: {})
    run_suite(replace(TINY, repeats=3))
    assert order == ["a", "b"] * 3


def test_medians_extremes_and_largest_errors() -> None:
    rounds = [
        a_round(3.0, 1e-9),
        a_round(1.0, 5e-9, sanitised_error=0.5),
        a_round(2.0, 2e-9, coordinator_peak_mib=80.0),
    ]
    result = summarise(SETTING, rounds, {})
    assert result.seconds == {"upload.encrypt": 2.0, "coordinator.add": 1.0}
    assert (result.critical_path_min_s, result.critical_path_s, result.critical_path_max_s) == (2.0, 3.0, 4.0)
    assert (result.max_error, result.sanitised_error, result.coordinator_peak_mib) == (5e-9, 0.5, 80.0)
    assert (result.up_bytes_per_value, result.down_bytes_per_value) == (7.0, 7.1)
    own = summarise(SETTING, rounds, {10: 60.0, 100: 61.0})
    assert (own.coordinator_peak_mib, own.coordinator_peaks_mib) == (60.0, {100: 61.0})


def test_what_masks_cost_is_compared_within_a_repeat() -> None:
    """The machine slows down threefold: medians of each setting alone would say that masks cost nothing."""
    masked, plain = [a_round(s) for s in (2.0, 8.0, 2.0)], [a_round(s) for s in (1.0, 5.0, 4.0)]
    result = summarise(replace(SETTING, masks="repairing"), masked, {}, plain)
    assert result.over_no_masks == 1.5  # of 3 / 2, 9 / 6 and 3 / 5
    assert summarise(replace(SETTING, masks="repairing"), masked, {}).over_no_masks is None
    assert summarise(SETTING, plain, {}, plain).over_no_masks is None


def test_too_little_memory_or_disk_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(suite, "_Builder", never)
    monkeypatch.setattr(settings, "available_memory", lambda: 100 * 2**20)
    with pytest.raises(TooLittleMemory, match=r"about \d+\.\d GiB of memory are needed, 0\.1 GiB are free") as caught:
        run_suite(TINY)
    assert caught.value.exit_code == 6
    monkeypatch.setattr(settings, "available_memory", lambda: 2**50)
    monkeypatch.setattr(settings, "free_disk", lambda place: 1000)
    with pytest.raises(TooLittleMemory, match="disk"):
        run_suite(TINY)
    monkeypatch.setattr(settings, "free_disk", lambda place: 2**50)
    require_room(replace(TINY, values=10**9))


def test_estimates_grow_with_what_is_asked() -> None:
    wire, peer = replace(TINY, transports=("none", "grpc")), replace(TINY, peers={"nvflare": Path("python")})
    for estimate in (needed_memory, needed_disk):
        assert estimate(replace(TINY, values=10**8)) > 5 * estimate(replace(TINY, values=10**7)) > estimate(TINY)
        assert estimate(peer) > estimate(TINY)
        assert estimate(wire) > estimate(TINY)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"values": 0}, InvalidConfiguration),
        ({"hospitals": 1}, InvalidConfiguration),
        ({"hospitals": 2}, InvalidConfiguration),
        ({"repeats": 0}, InvalidConfiguration),
        ({"transports": ()}, InvalidConfiguration),
        ({"profiles": ("enormous",)}, InvalidPlan),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_settings_have_names_to_tell_them_apart() -> None:
    plan = Plan(values=1000, hospitals=3)
    labels = [s.label for s in plan.settings()]
    assert len(labels) == len(set(labels)) == 14
    assert "secure-fedhelp standard with masks over gRPC" in labels


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize("hospitals", [2, 10, 1000])
def test_contributions_always_fit_the_profile(name: str, hospitals: int) -> None:
    bound = contribution_bound(PROFILES[name], hospitals)
    PROFILES[name].check_capacity(bound * hospitals)
    assert 0 < bound <= 0.5
