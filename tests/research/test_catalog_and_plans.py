"""The demo's studies: no patient in two parts, no private figure in a plan, and a budget that is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_catalog import write_heart, write_medmnist

from secure_fedhelp.data.checks import check_records
from secure_fedhelp.data.records import Records
from secure_fedhelp.data.tables import load_table, write_table
from secure_fedhelp.errors import InvalidData, UnknownDataset
from secure_fedhelp.learning.models import build
from secure_fedhelp.privacy.accountant import epsilon, within_budget
from secure_fedhelp.privacy.mechanisms import Gaussian, planned_event, study_events
from secure_fedhelp.research.catalog import DATASETS, HEART_SITES, StudyData, deal_out, prepare
from secure_fedhelp.research.plans import DEFAULTS, build_plan, nominal
from secure_fedhelp.study.methods import FedAvg, Prr
from secure_fedhelp.study.sections import DataSection

#: Values in one ciphertext of the "standard" profile.
RING_DEGREE = 2048


@pytest.fixture(scope="module", params=DATASETS)
def dataset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def study(dataset: str, shared_data: Path) -> StudyData:
    return prepare(dataset, shared_data, seed=3)


def test_no_patient_is_in_two_parts(study: StudyData) -> None:
    parts = [*study.references, study.test, *(records for _, records in study.hospitals.values())]
    patients = [patient for part in parts for patient in set(part.patients)]
    assert len(patients) == len(set(patients))


def test_the_public_set_shares_no_record_with_anybody(study: StudyData) -> None:
    def rows(inputs: np.ndarray) -> set[bytes]:
        return {row.tobytes() for row in inputs}

    public = rows(study.public.inputs)
    # Two different patients may have the same image; more than a stray one would be a leak of the split.
    for records in (study.test, *study.references, *(r for _, r in study.hospitals.values())):
        assert len(public & rows(records.inputs)) <= 1


def test_every_hospital_may_join_its_plan(dataset: str, study: StudyData) -> None:
    plan = build_plan(dataset, study, None, None, seed=3)
    assert plan.data.public_sha256 == study.public.sha256
    for name, (tier, records) in study.hospitals.items():
        check_records(records, plan, name)
        assert plan.hospital(name).tier == tier
        assert plan.hospital(name).nominal_patients <= records.n_patients


def test_all_rounds_together_keep_the_budget(dataset: str, study: StudyData) -> None:
    plan = build_plan(dataset, study, None, None, seed=3)
    for section in plan.privacy.values():
        spent = epsilon([planned_event(section)] * plan.study.rounds, section.delta)
        assert within_budget(spent, section.epsilon)
        assert spent > 0.99 * section.epsilon, "noise that the budget does not ask for is utility thrown away"


def test_uploads_waste_at_most_an_eighth_of_a_ciphertext(dataset: str, study: StudyData) -> None:
    length = build_plan(dataset, study, None, None, seed=3).largest_length
    padded = -(-length // RING_DEGREE) * RING_DEGREE
    assert padded / length <= 1.12


def test_both_networks_exist_and_large_is_larger(dataset: str, study: StudyData) -> None:
    plan = build_plan(dataset, study, None, None, seed=3)
    sizes = [
        sum(p.numel() for p in build(name, plan.data.input_shape, 2, seed=0).parameters())
        for name in (plan.model.small, plan.model.large)
    ]
    assert sizes[0] < sizes[1]


def test_the_prior_is_the_public_sets(dataset: str, study: StudyData) -> None:
    prior = build_plan(dataset, study, None, None, seed=3).learning.class_prior
    assert study.public.labels is not None
    assert abs(prior[1] - study.public.labels.mean()) < 0.05


def test_both_eyes_of_a_child_are_one_patient(shared_data: Path) -> None:
    study = prepare("retina", shared_data, seed=3)
    tier, chase = study.hospitals["chase"]
    assert tier == "small"
    assert len(chase) == 2 * chase.n_patients
    assert all(len(records) == records.n_patients for name, (_, records) in study.hospitals.items() if name != "chase")
    assert study.data_section_fields["task"] == "segmentation"
    assert study.test.masked
    assert study.public.masked
    assert 0.05 < study.test.labels.mean() < 0.2


def test_a_seed_repeats_a_split_and_another_changes_it() -> None:
    one, same, other = (prepare("breast-cancer", None, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.test.inputs, same.test.inputs)
    assert one.public.sha256 == same.public.sha256 != other.public.sha256


def test_rounds_and_epsilon_may_be_chosen() -> None:
    study = prepare("breast-cancer", None, 1)
    plan = build_plan("breast-cancer", study, 2, 1.0, 1)
    assert plan.study.rounds == 2
    assert {section.epsilon for section in plan.privacy.values()} == {1.0}
    assert build_plan("breast-cancer", study, None, None, 1).study.rounds == DEFAULTS["breast-cancer"].rounds


def test_what_a_method_asks_besides_is_in_the_budget() -> None:
    study = prepare("breast-cancer", None, 1)
    plan = build_plan("breast-cancer", study, 4, 2.0, 1, method=Prr(aligned_from=1))
    plain = build_plan("breast-cancer", study, 4, 2.0, 1, method=FedAvg())
    for hospital in plan.hospitals:
        events = study_events(plan, hospital.name)
        assert sum(isinstance(event, Gaussian) for event in events) == 1 + 4
        assert 0.99 * 2.0 < epsilon(events, 1e-4) <= 2.0
        assert plan.privacy_of(hospital.name).noise_multiplier > plain.privacy_of(hospital.name).noise_multiplier


def test_a_hospitals_table_survives_the_way_to_disk(tmp_path: Path) -> None:
    study = prepare("breast-cancer", None, 1)
    data = DataSection(**study.data_section_fields)
    records: Records = study.hospitals["small-1"][1]
    write_table(tmp_path / "r.csv", records, data)
    np.testing.assert_allclose(load_table(tmp_path / "r.csv", data).inputs, records.inputs, atol=1e-5)


def test_unknown_and_absent_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownDataset, match="lungs"):
        prepare("lungs", None, 1)
    with pytest.raises(UnknownDataset):
        build_plan("lungs", prepare("breast-cancer", None, 1), None, None, 1)
    with pytest.raises(InvalidData, match="does not ship") as raised:
        prepare("heart", None, 1)
    assert "--data-dir" in raised.value.hint
    with pytest.raises(InvalidData, match=r"no pneumoniamnist\.npz"):
        prepare("pneumonia", tmp_path, 1)


def test_a_row_that_a_site_has_twice_is_one_record(tmp_path: Path) -> None:
    """The files name no patients, and a copy must not be in training and test."""
    write_heart(tmp_path)
    file = tmp_path / HEART_SITES["hungarian"]
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines, lines[7]]) + "\n", encoding="utf-8")
    records = deal_out("heart", tmp_path, 1).records
    assert len(records) == len(set(records.patients)) == 4 * 120


@pytest.mark.parametrize("damage", [lambda whole: b"junk", lambda whole: b"", lambda whole: whole[: len(whole) // 2]])
def test_malformed_files_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_medmnist(tmp_path)
    whole = (tmp_path / "breastmnist.npz").read_bytes()
    for dataset, file in (("breast", "breastmnist.npz"), ("retina", "retina_vessels_256.npz")):
        (tmp_path / file).write_bytes(damage(whole))
        with pytest.raises(InvalidData, match=re.escape(file)):
            prepare(dataset, tmp_path, 1)
    np.savez(tmp_path / "retina_vessels_256.npz", images=np.zeros(3))
    with pytest.raises(InvalidData, match="no array 'vessel_fraction'"):
        prepare("retina", tmp_path, 1)
    (tmp_path / "processed.cleveland.data").write_text("63.0,1.0\n", encoding="utf-8")
    with pytest.raises(InvalidData, match="line 1: 2 values, not 14"):
        prepare("heart", tmp_path, 1)


def test_nominal_sizes_are_round_and_never_above_the_truth() -> None:
    assert [nominal(n) for n in (7, 9, 10, 14, 204)] == [7, 9, 10, 10, 200]
