"""[public] and [teacher] of a study file: nobody in two parts, studies that pair under a seed, every fault named."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from rich.console import Console
from small_catalog import split_hash, write_catalog, write_medmnist

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.data.images import load_public
from secure_fedhelp.data.partition import split, stratified_order
from secure_fedhelp.data.records import Indices, Records
from secure_fedhelp.errors import FedHelpError, InvalidConfiguration, InvalidPartition
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.preparation import noise_seed
from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.evaluation import score
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.research import wording
from secure_fedhelp.research.catalog import DATASETS, StudyData
from secure_fedhelp.research.dealing import Dealt, deal
from secure_fedhelp.research.in_process import run_in_process
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.public_part import wanted_patients, with_public
from secure_fedhelp.research.simulation import research_seed, simulate
from secure_fedhelp.research.study_file import (
    DirichletPartition,
    Partition,
    PublicPart,
    SitePartition,
    SizesPartition,
    StudyFile,
    TeacherPart,
    load_study,
)
from secure_fedhelp.research.sweep.execute import execute
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.research.teacher import teacher_of, together
from secure_fedhelp.research.teacher_part import lessons

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = {"warm_steps": 1, "pupil_steps": 1, "personal_steps": 1, "public_steps": 1}
#: Of the code before there were [public] and [teacher], patients in their canonical spelling: with seed 3, as usual and
#: by mixtures of classes.
BEFORE = {
    ("breast-cancer", ""): "c88b2433734f9a63",
    ("breast-cancer", "dirichlet"): "e19c35dc7e7e7f84",
    ("heart", ""): "282e736af64f286b",
    ("heart", "dirichlet"): "9a77267c781d7d2a",
    ("pneumonia", ""): "b14af7de8011ea0e",
    ("pneumonia", "dirichlet"): "9d0117f1553720cc",
    ("breast", ""): "31d64f8296c2d8b2",
    ("breast", "dirichlet"): "abad9db52894cf9f",
    ("retina", ""): "7ab7ccc03d7bce7f",
    ("retina", "dirichlet"): "01f90a855d651e2c",
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("catalog"))


def study(dataset: str = "heart", **sections: Any) -> StudyFile:
    return StudyFile.model_validate({"name": "s", "dataset": dataset, "seed": 3, **sections})


def rows(inputs: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in inputs}


# -- published figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_files_without_the_sections_deal_as_they_always_did(catalog: Path, dataset: str) -> None:
    mixtures = {"partition": {"kind": "dirichlet", "alpha": 0.5, "shares": {"a": 3, "b": 2, "c": 1}}}
    assert split_hash(study_data(study(dataset), catalog)) == BEFORE[dataset, ""]
    assert split_hash(study_data(study(dataset, **mixtures), catalog)) == BEFORE[dataset, "dirichlet"]


def test_a_table_of_ones_own_is_dealt_as_it_always_was() -> None:
    assert split_hash(study_data(load_study(EXAMPLES / "own-table.toml"), None)) == "5cab6c481f088e53"


@pytest.mark.parametrize("dataset", ["breast-cancer", "retina"])
def test_empty_sections_say_nothing(catalog: Path, dataset: str) -> None:
    assert split_hash(study_data(study(dataset, public={}, teacher={}), catalog)) == BEFORE[dataset, ""]


# -- every combination, by patient -------------------------------------------------------------------------------------


@st.composite
def dealt(draw: st.DrawFn) -> Dealt:
    """40 to 90 patients with one to three records, at three sites, dealt in any of the three ways."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(40, 90))
    owner = rng.permutation(np.repeat(np.arange(count), rng.integers(1, draw(st.sampled_from([2, 4])), count)))
    patients = tuple(f"p{number}" for number in owner)
    labels = (rng.random(count) < draw(st.sampled_from([0.1, 0.5])))[owner].astype(np.int64)
    sites, inputs = [f"s{number % 3}" for number in owner], rng.random((len(owner), 2)).astype(np.float32)
    shares = {"s0": 3.0, "s1": 2.0, "s2": 1.0}
    partition: Partition = draw(
        st.sampled_from(
            [
                SitePartition(kind="site", minimum_patients=2),
                SizesPartition(kind="sizes", shares=shares, minimum_patients=2),
                DirichletPartition(kind="dirichlet", shares=shares, alpha=0.3, minimum_patients=2),
            ]
        )
    )
    test, public, reference, pool = split(patients, labels, (8, 6, 7), rng)
    try:
        hospitals = deal(partition, patients, labels, sites, pool, rng)
    except InvalidPartition:  # a site that the split has left nearly nobody
        reject()
    fields = {"classes": ("well", "ill")}
    return Dealt(Records(inputs, labels, patients), labels, partition, hospitals, public, reference, test, fields)


sizes = st.one_of(
    st.just({}),
    st.integers(1, 40).map(lambda n: {"records": n}),
    st.floats(0.001, 0.6).map(lambda share: {"share": share}),
)
publics = st.builds(
    lambda size, more: PublicPart.model_validate(size | more),
    sizes,
    st.fixed_dictionaries({}, optional={"labelled": st.booleans(), "hospital": st.sampled_from(["s0", "s1", "s2"])}),
)
LESSONS = {"records": st.integers(2, 9), "shuffled": st.floats(0, 1)}
teachers = st.one_of(
    st.just({"kind": "none"}),
    st.fixed_dictionaries({}, optional={**LESSONS, "second": st.fixed_dictionaries({}, optional=LESSONS)}),
).map(TeacherPart.model_validate)


def changed(before: Dealt, public: PublicPart, seed: int = 1) -> Dealt | None:
    """None where these patients do not allow it, as an InvalidPartition says."""
    with suppress(InvalidPartition):
        return with_public(before, public, tuple(before.hospitals), np.random.default_rng(seed))
    return None


def people(d: Dealt, indices: Indices) -> set[str]:
    return set(d.patients(indices))


@given(dealt(), publics, teachers)
def test_no_patient_is_ever_in_two_parts(before: Dealt, public: PublicPart, teacher: TeacherPart) -> None:
    after = changed(before, public) or before
    parts = [after.public, after.reference, after.test, *(at for _, at in after.hospitals.values())]
    everybody = [patient for part in parts for patient in people(after, part)]
    assert len(everybody) == len(set(everybody))
    assert all(len(part) == len(set(part.tolist())) for part in parts), "nor is a record twice in one"
    with suppress(InvalidPartition):
        taught = lessons(after, teacher, np.random.default_rng(2))
        assert all(set(lesson.patients) <= people(before, before.reference) for lesson in taught)
        assert len(taught) == (teacher.kind == "usual") + (teacher.second is not None)


PUBLICS = ({"records": 4}, {"share": 0.1, "labelled": False}, {"hospital": "large-1", "share": 0.05})
TEACHERS = ({"records": 10, "shuffled": 0.3}, {"kind": "none"})
PARTITIONS = ({}, {"partition": {"kind": "dirichlet", "alpha": 0.5, "minimum_patients": 2}})


@pytest.mark.parametrize(("public", "teacher", "partition"), [*itertools.product(PUBLICS, TEACHERS, PARTITIONS)])
def test_nor_in_a_whole_study(public: dict[str, Any], teacher: dict[str, Any], partition: dict[str, Any]) -> None:
    """The same from the study file on; patients of this table are told apart by their values."""
    usual = study_data(study("breast-cancer", **partition), None)
    data = study_data(study("breast-cancer", public=public, teacher=teacher, **partition), None)
    others = [data.test, *(records for _, records in data.hospitals.values()), *data.references]
    parts = [rows(data.public.inputs), *(rows(records.inputs) for records in others)]
    assert sum(map(len, parts)) == len(set[bytes]().union(*parts))
    np.testing.assert_array_equal(data.test.inputs, usual.test.inputs)
    changed = {name for name, (_, r) in data.hospitals.items() if len(r) != len(usual.hospitals[name][1])}
    assert public.get("hospital") is None or changed == {"large-1"}
    assert "records" not in public or not changed


@given(dealt(), publics)
def test_what_public_says_changes_nothing_else(before: Dealt, public: PublicPart) -> None:
    after = changed(before, public)
    if after is None:
        return
    assert len(people(after, after.public)) == wanted_patients(before, public)
    np.testing.assert_array_equal(after.test, before.test)
    np.testing.assert_array_equal(after.reference, before.reference)
    grew = public.hospital is None and len(people(after, after.public)) > len(people(before, before.public))
    for name, (tier, at) in after.hospitals.items():
        assert tier == before.hospitals[name][0]
        kept = before.hospitals[name][1]
        np.testing.assert_array_equal(at, kept[~np.isin(kept, after.public)])
        if not grew and name != public.hospital:
            np.testing.assert_array_equal(at, kept)
    if public.hospital is not None:
        assert people(after, after.public) <= people(before, before.hospitals[public.hospital][1])
    elif grew:
        assert people(after, after.public) > people(before, before.public)
    else:
        assert people(after, after.public) <= people(before, before.public)


@given(dealt(), st.sampled_from([None, "s0", "s1"]), st.integers(1, 30), st.integers(1, 30))
def test_a_smaller_public_set_is_part_of_every_larger_one(d: Dealt, hospital: str | None, one: int, two: int) -> None:
    found = [changed(d, PublicPart(records=n, hospital=hospital)) for n in sorted((one, two))]
    if found[0] is not None and found[1] is not None:
        assert people(d, found[0].public) <= people(d, found[1].public)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 100))
def test_every_beginning_has_the_classes_in_proportion(labels: list[int], seed: int) -> None:
    patients, classes = [f"p{n}" for n in range(len(labels))], np.asarray(labels)
    order = stratified_order(patients, classes, np.random.default_rng(seed))
    drawn = [labels[int(group[0])] for group in order]
    assert sorted(drawn) == sorted(labels)
    for length in range(1, len(labels) + 1):
        for kind in set(labels):
            assert abs(drawn[:length].count(kind) - length * labels.count(kind) / len(labels)) <= 1.5


@pytest.mark.parametrize("dataset", ["breast-cancer", "pneumonia"])
def test_a_public_set_that_grows_is_the_same_for_all_partitions(catalog: Path, dataset: str) -> None:
    mixtures = {"partition": {"kind": "dirichlet", "alpha": 1.0, "shares": {"a": 3, "b": 2, "c": 1}}}
    one, two = (study_data(study(dataset, public={"records": 90}, **p), catalog) for p in ({}, mixtures))
    assert one.public.sha256 == two.public.sha256
    assert len(one.public) == 90


# -- labels and shifts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["heart", "breast"])
def test_without_labels_only_the_labels_are_gone(catalog: Path, dataset: str) -> None:
    usual, bare = (study_data(study(dataset, **more), catalog) for more in ({}, {"public": {"labelled": False}}))
    np.testing.assert_array_equal(bare.public.inputs, usual.public.inputs)
    assert bare.public.labels is None
    assert all((bare.hospitals[n][1].inputs == usual.hospitals[n][1].inputs).all() for n in usual.hospitals)
    plan = study_plan(study(dataset, public={"labelled": False}), bare)
    assert not plan.data.public_labelled
    assert plan.learning.class_prior == (), "frequencies of labels that nobody has"


def test_one_per_cent_and_five_are_of_all_who_are_neither_test_nor_reference(catalog: Path) -> None:
    usual = study_data(study(), catalog)
    everybody = len(usual.public) + sum(records.n_patients for _, records in usual.hospitals.values())
    for share in (0.01, 0.05, 0.2):
        found = study_data(study(public={"share": share}), catalog)
        assert len(found.public) == round(share * everybody)
        assert split_hash(found) != split_hash(usual)
        np.testing.assert_array_equal(found.test.inputs, usual.test.inputs)


def test_a_hospital_that_takes_no_part_may_be_public_altogether(catalog: Path) -> None:
    others = ["cleveland", "hungarian", "long-beach"]
    usual = study_data(study(), catalog)
    whole = usual.hospitals["switzerland"][1]
    public = {"hospital": "switzerland", "records": whole.n_patients}
    data = study_data(study(public=public, hospitals=others), catalog)
    assert rows(data.public.inputs) == rows(whole.inputs)
    assert list(data.hospitals) == others
    for name in others:
        np.testing.assert_array_equal(data.hospitals[name][1].inputs, usual.hospitals[name][1].inputs)
    with pytest.raises(InvalidPartition, match="leaves switzerland with 0 patients, and 5 are needed"):
        study_data(study(public=public), catalog)


def test_images_of_another_data_set_are_nobodys_and_have_no_labels(catalog: Path) -> None:
    usual = study_data(study("breast"), catalog)
    data = study_data(study("breast", public={"dataset": "pneumonia", "records": 33}), catalog)
    assert (len(data.public), data.public.labels) == (33, None)
    with np.load(catalog / "pneumoniamnist.npz") as stored:
        images = np.concatenate([stored[f"{part}_images"] for part in ("train", "val", "test")])
    known = {image.tobytes() for image in images}
    seen = np.round((data.public.inputs * 0.25 + 0.5) * 255).astype(np.uint8)
    assert all(image.tobytes() in known for image in seen)
    assert split_hash(data) != split_hash(usual)
    for name, (_, records) in usual.hospitals.items():
        np.testing.assert_array_equal(records.inputs, data.hospitals[name][1].inputs)
    assert not study_plan(study("breast"), data).data.public_labelled


@pytest.mark.parametrize(
    ("dataset", "sections", "error", "words"),
    [
        ("heart", {"public": {"records": 3, "share": 0.1}}, InvalidConfiguration, "records or share, not both"),
        ("heart", {"public": {"share": 1.5}}, InvalidConfiguration, "public.share"),
        ("heart", {"public": {"labeled": False}}, InvalidConfiguration, "public.labeled"),
        ("heart", {"public": {"dataset": "breast"}}, InvalidConfiguration, "is of a table"),
        ("breast", {"public": {"dataset": "heart"}}, InvalidConfiguration, "breast, pneumonia, retina"),
        ("breast", {"public": {"dataset": "breast"}}, InvalidConfiguration, "the study's own"),
        ("breast", {"public": {"dataset": "pneumonia", "labelled": True}}, InvalidConfiguration, "other classes"),
        ("breast", {"public": {"dataset": "pneumonia", "hospital": "large-1"}}, InvalidConfiguration, "not both"),
        ("breast", {"variants": {"v": {"public": {"dataset": "breast"}}}}, InvalidConfiguration, "variants.v"),
        ("breast", {"public": {"dataset": "retina"}}, InvalidConfiguration, r"\[3, 64, 64\], and the study's are \[1"),
        ("breast", {"public": {"dataset": "pneumonia", "records": 9999}}, InvalidPartition, "pneumonia has 860"),
        ("heart", {"public": {"hospital": "paris"}}, InvalidConfiguration, "'paris' is none of this study"),
        ("heart", {"public": {"hospital": "hungarian", "records": 900}}, InvalidPartition, "at hungarian"),
        ("heart", {"public": {"records": 9999}}, InvalidPartition, "beside test and reference"),
        ("heart", {"public": {"share": 0.99}}, InvalidPartition, r"\[public\] leaves"),
        ("heart", {"teacher": {"kind": "none", "records": 5}}, InvalidConfiguration, "no teacher at all"),
        ("heart", {"teacher": {"kind": "good"}}, InvalidConfiguration, "teacher.kind"),
        ("heart", {"teacher": {"records": 999}}, InvalidPartition, "asks for 999 patients"),
    ],
)
def test_each_wrong_combination_is_named(
    catalog: Path, tmp_path: Path, dataset: str, sections: dict[str, Any], error: type[FedHelpError], words: str
) -> None:
    import tomli_w

    (tmp_path / "s.toml").write_text(tomli_w.dumps({"name": "s", "dataset": dataset, **sections}))
    with pytest.raises(error, match=words) as raised:
        study_data(load_study(tmp_path / "s.toml"), catalog)
    assert raised.value.hint


def test_a_hospital_that_would_lose_its_second_class_is_named() -> None:
    labels = np.asarray([0, 1] * 10 + [1] + [0] * 9)
    patients = tuple(f"p{n}" for n in range(30))
    hospitals = {"a": ("small", np.arange(20, 30)), "b": ("small", np.arange(10, 20)), "c": ("small", np.arange(4, 10))}
    inputs, partition = np.zeros((30, 1), dtype=np.float32), SizesPartition(kind="sizes", minimum_patients=2)
    records = Records(inputs, labels, patients)
    parts = (np.arange(2), np.asarray([2]), np.asarray([3]))
    before = Dealt(records, labels, partition, hospitals, *parts, {"classes": ("x", "y")})  # type: ignore[arg-type]
    part = PublicPart(hospital="a", records=8)
    with pytest.raises(InvalidPartition, match="leaves a with records of one class only"):
        with_public(before, part, ["a"], np.random.default_rng(0))
    with_public(before, part, ["b", "c"], np.random.default_rng(0))


# -- teachers ----------------------------------------------------------------------------------------------------------


def test_a_teacher_of_fewer_patients_or_of_wrong_labels_is_worse(catalog: Path) -> None:
    def right(**teacher: Any) -> float:
        file = study("breast-cancer", teacher=teacher)
        data = study_data(file, None)
        fitted = teacher_of(study_plan(file, data), *data.references)
        return float((fitted.logits(data.test.inputs).argmax(axis=1) == data.test.labels).mean())

    assert right() > 0.93
    assert right(shuffled=1.0) < right(shuffled=0.3) <= right()
    assert right(records=4) < right()


def test_a_teacher_changes_nothing_but_itself(catalog: Path) -> None:
    usual = study_data(study(), catalog)
    weak = study_data(study(teacher={"records": 20, "shuffled": 0.5}), catalog)
    assert weak.public.sha256 == usual.public.sha256
    np.testing.assert_array_equal(weak.test.inputs, usual.test.inputs)
    (few,), (all_of_them,) = weak.references, usual.references
    assert (few.n_patients, all_of_them.n_patients) == (20, 60)
    assert rows(few.inputs) < rows(all_of_them.inputs)
    (shuffled,) = study_data(study(teacher={"shuffled": 1.0}), catalog).references
    assert not np.array_equal(shuffled.labels, all_of_them.labels)
    assert sorted(shuffled.labels) == sorted(all_of_them.labels), "the classes stay as frequent as they are"


def test_a_teacher_that_lacks_a_class_says_how_many_patients_have_them_all() -> None:
    labels = np.asarray([0] * 20 + [1])
    inputs, partition = np.zeros((21, 1), dtype=np.float32), SizesPartition(kind="sizes")
    records = Records(inputs, labels, tuple(f"p{n}" for n in range(21)))
    none, all_of_them = np.zeros(0, dtype=np.int64), np.arange(21)
    before = Dealt(records, labels, partition, {}, none, all_of_them, none, {"classes": ("x", "y")})
    with pytest.raises(InvalidPartition, match="lack a class of x, y") as raised:
        lessons(before, TeacherPart(records=5), np.random.default_rng(0))
    enough = int(raised.value.hint.split()[3])
    (taught,) = lessons(before, TeacherPart(records=enough), np.random.default_rng(0))
    assert set(taught.labels.tolist()) == {0, 1}


TWO = {"records": 20, "second": {"records": 15, "shuffled": 0.2}}


def test_a_second_teacher_has_patients_of_its_own_and_leaves_the_first_as_it_is(catalog: Path) -> None:
    alone = study_data(study(teacher={"records": 20}), catalog)
    both = study_data(study(teacher=TWO), catalog)
    (lesson,), (first, second) = alone.references, both.references
    np.testing.assert_array_equal(first.inputs, lesson.inputs)
    np.testing.assert_array_equal(first.labels, lesson.labels)
    assert both.public.sha256 == alone.public.sha256
    np.testing.assert_array_equal(both.test.inputs, alone.test.inputs)
    assert second.n_patients == 15
    everybody = [first, second, both.test, *(r for _, r in both.hospitals.values())]
    people = [patient for part in everybody for patient in set(part.patients)]
    assert len(people) == len(set(people)), "no patient teaches two, or is at a hospital too"


@pytest.mark.parametrize(
    ("teacher", "error", "words"),
    [
        ({"second": {}}, InvalidPartition, "the very same records"),
        ({"records": 60, "second": {"records": 60}}, InvalidPartition, "the very same records"),
        ({"second": {"records": 61}}, InvalidPartition, r"\[teacher.second\] asks for 61 patients"),
        ({"kind": "none", "second": {"records": 5}}, ValueError, "no teacher at all"),
        ({"second": {"records": 5, "second": {}}}, ValueError, "teacher.second.second"),
    ],
)
def test_a_second_teacher_that_is_none_is_refused(
    catalog: Path, teacher: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        study_data(study(teacher=teacher), catalog)


def test_two_teachers_together_teach_what_both_do() -> None:
    """Where only one can be named, as by rivals: the gradients are those of learning from each, half and half."""
    rng, temperature = np.random.default_rng(0), 2.5
    one, other, pupil = (rng.normal(0, 300 if n < 2 else 1, (7, 3)).astype(np.float32) for n in range(3))
    student = torch.tensor(pupil.astype(np.float64), requires_grad=True)

    def slope(*teachers: Any) -> Any:
        losses = [soft_loss(torch.from_numpy(t.astype(np.float64)), student, temperature) for t in teachers]
        return torch.autograd.grad(sum(losses) / len(losses), student)[0].numpy()  # type: ignore[arg-type]

    mixed = together([one, other], temperature)
    assert np.isfinite(mixed).all(), "also where one of them is very sure"
    np.testing.assert_allclose(slope(mixed), slope(one, other), atol=1e-9)
    assert together([one]) is one


# -- the same in all ways to run it ------------------------------------------------------------------------------------

SMALL = ["large-3", "small-1", "small-2"]
BARE = {"public": {"records": 12, "labelled": False}, "teacher": {"kind": "none"}}


@pytest.mark.end
def test_a_study_without_labels_and_teacher_runs_encrypted_and_its_audit_holds(tmp_path: Path) -> None:
    file = study("breast-cancer", rounds=1, learning=QUICK, hospitals=SMALL, **BARE)
    summary = simulate(file, None, tmp_path / "run", False, Console(quiet=True))
    assert "The public set alone, with neither teacher nor hospital" in " ".join(wording.sentences(summary))
    hospitals = [HospitalFolder(path) for path in sorted((tmp_path / "run" / "hospitals").iterdir())]
    assert len(hospitals) == 3
    for folder in hospitals:
        assert folder.config().foundation_urls == ()
        assert folder.policy().foundation_endpoints == ()
        assert not list((folder.root / "public").glob("teacher-*"))
    plan = study_plan(file, study_data(file, None))
    read = load_public(hospitals[0].root / "public" / "public.npz", plan.data)
    assert (len(read), read.labels) == (12, None)
    assert not (tmp_path / "run" / "foundation").exists()
    findings = verify_run(tmp_path / "run", time.time())
    assert findings
    assert all(finding.ok for finding in findings), findings


@pytest.mark.end
def test_hospitals_ask_both_teachers_and_learn_what_they_do_in_plain(tmp_path: Path) -> None:
    """Simulated with the deployed client, configuration and policy; in plain from the same teachers' logits."""
    learning = QUICK | {"warm_steps": 30, "public_steps": 5}
    more = {"rounds": 1, "learning": learning, "hospitals": SMALL, "public": {"labelled": False}}
    file = study("breast-cancer", teacher={"records": 20, "second": {"records": 20, "shuffled": 1.0}}, **more)
    summary = simulate(file, None, tmp_path / "run", False, Console(quiet=True))
    data = study_data(file, None)
    plan = study_plan(file, data)
    first, second = (teacher_of(plan, lesson) for lesson in data.references)
    for path in (tmp_path / "run" / "hospitals").iterdir():
        folder = HospitalFolder(path)
        urls = folder.config().foundation_urls
        assert len(set(urls)) == 2
        assert folder.policy().foundation_endpoints == urls
        kept = {at.stem.split("-")[2]: np.load(at) for at in (folder.root / "public").glob("teacher-*.npy")}
        np.testing.assert_array_equal(kept["teacher"], first.logits(data.public.inputs))
        np.testing.assert_array_equal(kept["second"], second.logits(data.public.inputs))
    findings = verify_run(tmp_path / "run", time.time())
    assert all(finding.ok for finding in findings), findings

    def noise(name: str) -> SeededNoise:
        return SeededNoise(noise_seed(research_seed(plan), name, "from round 0"))

    answers = (first.logits(data.public.inputs), second.logits(data.public.inputs))
    in_plain = {name: method for name, method, _ in run_in_process(plan, data, answers, noise)}
    alone = {name: method for name, method, _ in run_in_process(plan, data, answers[0], noise)}
    for h in summary.hospitals:
        saved = torch.load(tmp_path / "run" / "hospitals" / h.name / "models" / "shared.pt", weights_only=True)
        near, far_off = (distance(saved, m[h.name].shared_model().state_dict()) for m in (in_plain, alone))
        assert near < 1e-3 < far_off
    (run,) = expand(file, ["fedhelp"], [3.0], 1, False, None)
    swept = {h.hospital: h.metrics["auroc"] for h in execute(run).hospitals if h.model == "shared"}
    assert swept == pytest.approx({h.name: h.study_model.auroc for h in summary.hospitals if h.study_model}, abs=0.01)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two networks' parameters."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("contender", ["fedhelp", "fedavg", "prr", "ditto", "public", "teacher", "local-warm"])
def test_methods_and_rivals_run_with_two_teachers(contender: str) -> None:
    file = study("breast-cancer", rounds=1, learning=QUICK, hospitals=SMALL, teacher=TWO)
    (run,) = expand(file, [contender], [3.0], 1, False, None)
    assert all(h.metrics["auroc"] > 0.6 for h in execute(run).hospitals)


def test_one_or_two_teachers_are_a_variant_to_sweep() -> None:
    file = study("breast-cancer", teacher={"records": 20}, variants={"two": {"teacher": TWO}})
    one, two = expand(file, ["fedhelp", "two"], [3.0], 1, False, None)
    assert one.id != two.id
    assert one.dealt_by != two.dealt_by
    assert "second" not in str(one.study.model_dump(mode="json", exclude_none=True)), "or old runs would be renamed"


@pytest.mark.parametrize("method", ["fedhelp", "fedavg", "prr", "ditto"])
def test_every_method_runs_in_plain_without_labels_and_teacher(method: str) -> None:
    file = study("breast-cancer", rounds=1, learning=QUICK, method={"name": method}, **BARE)
    (run,) = expand(file, [method], [3.0], 1, False, None)
    assert {h.model for h in execute(run).hospitals} == {"shared", "personal"}


@pytest.mark.parametrize("rival", ["public", "local-warm", "local-dp-warm", "pooled"])
def test_every_rival_runs_without_labels_and_teacher(rival: str) -> None:
    (run,) = expand(study("breast-cancer", rounds=1, learning=QUICK, **BARE), [rival], [3.0], 1, False, None)
    assert len(execute(run).hospitals) == 6


@pytest.mark.parametrize(("rival", "missing"), [("teacher", "no teacher"), ("public-labels", "no labels")])
def test_a_rival_made_of_what_the_study_has_not_is_refused(rival: str, missing: str) -> None:
    (run,) = expand(study("breast-cancer", rounds=1, learning=QUICK, **BARE), [rival], [3.0], 1, False, None)
    with pytest.raises(InvalidConfiguration, match=missing):
        execute(run)


def test_the_teacher_itself_and_the_labels_alone_are_rivals() -> None:
    file = study("breast-cancer", rounds=2, learning=QUICK | {"warm_steps": 20})
    found = {
        run.contender: execute(run).hospitals
        for run in expand(file, ["teacher", "public", "public-labels"], [3.0], 1, False, None)
    }
    for hospitals in found.values():
        assert len({h.metrics["auroc"] for h in hospitals}) == 1, "one for all hospitals"
    data = study_data(file, None)
    fitted = teacher_of(study_plan(file, data), *data.references)
    expected = score(fitted.logits(data.test.inputs).astype(np.float64), data.test.labels)
    assert found["teacher"][0].metrics["auroc"] == expected.auroc > 0.9
    assert len({name[0].metrics["auroc"] for name in found.values()}) == 3


def test_public_sets_and_teachers_change_what_is_learnt() -> None:
    variants = {
        "bare": BARE,
        "weak": {"teacher": {"records": 4}},
        "few": {"public": {"records": 4}},
        "other-nets": {"model": {"small": "mlp-8", "large": "mlp-16"}},
        "skewed": {"partition": {"kind": "dirichlet", "alpha": 0.3}},
    }
    file = study("breast-cancer", rounds=1, learning=QUICK | {"warm_steps": 20}, hospitals=SMALL, variants=variants)
    runs = expand(file, ["fedavg", *variants], [3.0], 1, False, None)
    assert len({run.id for run in runs}) == len(runs)
    found = [execute(run) for run in runs]
    assert len({r.plan_sha256 for r in found}) == len(found) - 1, "a teacher is no part of a plan"
    assert len({r.hospitals[0].metrics["auroc"] for r in found}) == len(found)


# -- networks of one's choice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "nets"), [("heart", ("mlp-8", "mlp-24-12")), ("breast", ("cnn-4", "cnn-8-8"))])
def test_large_hospitals_keep_a_network_of_their_own(catalog: Path, dataset: str, nets: tuple[str, str]) -> None:
    """Tables and images of the catalog; the shared model is of the small network everywhere."""
    from secure_fedhelp.learning.method import Site
    from secure_fedhelp.learning.methods import make_method
    from secure_fedhelp.learning.models import parameter_count
    from secure_fedhelp.privacy.noise import SeededNoise

    file = study(dataset, rounds=1, learning=QUICK, model={"small": nets[0], "large": nets[1]})
    data = study_data(file, catalog)
    plan = study_plan(file, data)
    assert (plan.model.small, plan.model.large) == nets
    for name, (tier, records) in data.hospitals.items():
        method = make_method(Site(plan, name, records, data.public, None, SeededNoise(b"x")))
        sizes = {
            kind: sum(p.numel() for p in model.parameters())
            for kind, model in (("shared", method.shared_model()), ("personal", method.personalise()))
        }
        shape = plan.data.input_shape
        assert sizes["shared"] == parameter_count(nets[0], shape, 2)
        assert sizes["personal"] == parameter_count(nets[tier == "large"], shape, 2)
    (run,) = expand(file, ["fedhelp"], [3.0], 1, False, catalog)
    assert {h.model for h in execute(run).hospitals} == {"shared", "personal"}


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_is_a_whole_table(catalog: Path) -> None:
    file = load_study(EXAMPLES / "pneumonia-unlabelled.toml")
    runs = expand(file, ["fedhelp", *file.variants], [3.0], 1, False, catalog)
    assert len({run.id for run in runs}) == 1 + len(file.variants)
    found: dict[str, StudyData] = {}
    for run in runs:
        found[run.contender] = study_data(run.study, catalog)
        study_plan(run.study, found[run.contender])
    tests = {data.test.inputs.tobytes() for data in found.values()}
    assert len(tests) == 1
    assert found["no-teacher"].references == ()
    assert found["labelled"].public.labels is not None
    np.testing.assert_array_equal(found["labelled"].public.inputs, found["fedhelp"].public.inputs)


def test_copies_of_an_image_are_one_patient_and_none_of_them_is_tested_and_trained_on(tmp_path: Path) -> None:
    write_medmnist(tmp_path)
    with np.load(tmp_path / "breastmnist.npz") as stored:
        arrays = dict(stored)
    arrays["train_images"][3] = arrays["test_images"][0]
    arrays["train_images"][5] = arrays["train_images"][7]
    arrays["train_labels"][5] = arrays["train_labels"][7]
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    data = study_data(study("breast"), tmp_path)
    records = [data.test, *data.references, *(records for _, records in data.hospitals.values())]
    parts = [data.public.inputs, *(one.inputs for one in records)]
    assert sum(map(len, parts)) == 450 + 20 + 40 - 1
    images = [{image.tobytes() for image in part} for part in parts]
    for number, one in enumerate(images):
        assert all(one.isdisjoint(other) for other in images[number + 1 :])


def test_a_public_set_of_the_studys_own_images_under_another_name_has_none_of_them(tmp_path: Path) -> None:
    write_medmnist(tmp_path)
    own = {
        "name": "own",
        "data": {"path": str(tmp_path / "breastmnist.npz"), "classes": ["a", "b"]},
        "parts": {"public": 30, "reference": 40},
        "partition": {"kind": "sizes"},
        "public": {"dataset": "breast", "records": 20},
    }
    with pytest.raises(InvalidPartition, match="asks for 20 patients, and breast has 0"):
        study_data(StudyFile.model_validate(own), tmp_path)
