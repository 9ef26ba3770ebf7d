"""Noise from a cryptographic source costs little beside a private step, so nobody has a reason to switch it off."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from secure_fedhelp.research.bench import noise
from secure_fedhelp.research.bench.noise import LARGEST_RATIO, SUBJECTS, NoiseResult, Subject, run_noise
from secure_fedhelp.research.bench.table import noise_table
from secure_fedhelp.research.bench.training import STUDIES
from secure_fedhelp.research.catalog import DATASETS, prepare
from secure_fedhelp.research.plans import DEFAULTS, nominal

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.dataset != "pneumonia"], ids=lambda s: s.dataset)
def test_a_step_costs_at_most_what_was_promised(subject: Subject) -> None:
    """At the smallest batch, where the noise weighs most. Pairs of one process: a busy machine slows both alike."""
    small = Subject(subject.dataset, subject.input_shape, subject.batches[:1])
    (result,) = run_noise(21, lambda *_: None, [small])
    assert result.ratio <= LARGEST_RATIO, result
    assert result.ratio_quartiles[0] <= result.ratio <= result.ratio_quartiles[1]


def test_what_costs_more_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a source that draws everything twenty times the ratio is far above the limit: the measurement sees noise."""

    class Wasteful(noise.SystemNoise):
        def normal(self, shape, standard_deviation):  # type: ignore[no-untyped-def]
            for _ in range(20):
                drawn = super().normal(shape, standard_deviation)
            return drawn

    monkeypatch.setattr(noise, "SystemNoise", Wasteful)
    (result,) = run_noise(5, lambda *_: None, [Subject("breast-cancer", (30,), (2,))])
    assert result.ratio > LARGEST_RATIO
    assert result.noise_s > 5 * result.opacus_noise_s


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_measured_is_what_the_demo_trains(dataset: str) -> None:
    if dataset != "breast-cancer" and not FOLDER.is_dir():
        pytest.skip("the open data are not here")
    study = prepare(dataset, FOLDER, 1)
    tiers = DEFAULTS[dataset].tiers
    drawn = [nominal(r.n_patients) * tiers[tier].sampling_rate for tier, r in study.hospitals.values()]
    (subject,) = (s for s in STUDIES if s.dataset == dataset)
    assert subject.input_shape == tuple(study.data_section_fields["input_shape"])
    assert subject.batches == pytest.approx((min(drawn), max(drawn)), abs=1)
    assert subject.model == DEFAULTS[dataset].small


def test_the_command_prints_and_writes_every_model(tmp_path: Path) -> None:
    place = tmp_path / "out" / "noise.json"
    command = [sys.executable, "-m", "secure_fedhelp", "bench", "noise", "--repeat", "1", "--json", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = [NoiseResult.model_validate_json(json.dumps(r)) for r in json.loads(place.read_text(encoding="utf-8"))]
    assert [(r.dataset, r.batch) for r in results] == [(s.dataset, b) for s in SUBJECTS for b in s.batches]
    assert all(r.step_s > r.noise_s for r in results)
    for result in results:
        assert f"{result.dataset}: {result.model}" in done.stdout
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(noise_table(results))
    assert all(len(line) <= 80 for line in console.export_text().splitlines())


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "secure_fedhelp", "bench", "noise", "--json", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "cannot write" in done.stderr
