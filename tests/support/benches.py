"""Results for tests of the benchmark."""

from __future__ import annotations

from secure_fedhelp.research.bench.results import OURS, Result

VALUES: dict[str, object] = {
    "system": OURS,
    "profile": "standard",
    "masks": "repairing",
    "transport": "none",
    "values": 1_000_000,
    "hospitals": 10,
    "figures": "measured",
    "seconds": {"upload.encrypt": 0.5, "coordinator.add": 0.25, "download.decrypt": 0.25},
    "critical_path_s": 1.0,
    "critical_path_min_s": 0.75,
    "critical_path_max_s": 1.5,
    "up_bytes_per_value": 7.01,
    "down_bytes_per_value": 7.02,
    "coordinator_peak_mib": 60.5,
    "coordinator_peaks_mib": {100: 61.25},
    "max_error": 1.5e-9,
    "sanitised_error": 0.5,
    "repeats": 3,
    "contributions": 10,
    "cores": 2,
    "versions": {"python": "3.11.7", "tenseal": "0.3.18"},
}


def a_result(**changes: object) -> Result:
    """A valid result with fields replaced."""
    return Result.model_validate(VALUES | changes)
