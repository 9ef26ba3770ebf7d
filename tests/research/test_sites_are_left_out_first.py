"""A site that takes no part is left out before anything of its records is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from clinics import CLINICS, SITES, Row, patients, study, write

from secure_fedhelp.errors import FedHelpError, InvalidConfiguration, InvalidPartition
from secure_fedhelp.research.cohort import cohort_of
from secure_fedhelp.research.own_data import study_data

FOUR = 'hospitals = ["north", "south", "east", "west"]\n'


def with_annex(number: int, row: Row) -> None:
    """A fifth clinic with four patients, whose records nobody could read."""
    if number in (9, 90, 200, 300):
        row |= {"clinic": "annex", "outcome": "", "grade": f"remark {number}", "age": "unknown"}
        row["who"] = "" if number == 300 else row["who"]


@pytest.mark.parametrize("top", ["smallest_site = 5\n", FOUR])
def test_a_small_site_with_unreadable_records_is_left_out(tmp_path: Path, top: str) -> None:
    write(tmp_path, patients(change=with_annex))
    with pytest.raises(FedHelpError):
        study_data(study(tmp_path), None)
    data = study_data(study(tmp_path, top=top), None)
    assert set(data.hospitals) == set(CLINICS)
    everybody = {p for _, records in data.hospitals.values() for p in records.patients} | set(data.test.patients)
    assert not everybody & {"p9", "p90", "p200", ""}
    (said,) = cohort_of(data).left_out
    assert said.startswith("annex, with 4 patients: ")


def test_a_site_with_a_number_is_one_however_it_is_spelled(tmp_path: Path) -> None:
    def numbered(number: int, row: Row) -> None:
        row["clinic"] = {"north": ("1", "1.0", "01")[number % 3], "south": "2", "east": "3", "west": "4"}[row["clinic"]]

    write(tmp_path, patients(change=numbered))
    partition = SITES.replace('"north"', '"site-1"')
    for top in ("", 'hospitals = ["site-1", "site-2", "site-3"]\n'):
        data = study_data(study(tmp_path, top=top, partition=partition), None)
        assert set(data.hospitals) == {"site-1", "site-2", "site-3", *(() if top else ("site-4",))}


def test_the_same_sites_take_part_under_every_seed(tmp_path: Path) -> None:
    """By what is in the file, and not by what is left of it after a draw."""
    write(tmp_path, patients(change=with_annex))
    for seed in range(1, 6):
        assert set(study_data(study(tmp_path, top=f"seed = {seed}\nsmallest_site = 5\n"), None).hospitals) == set(
            CLINICS
        )


def test_a_site_is_measured_in_patients_and_not_in_records(tmp_path: Path) -> None:
    def often(number: int, row: Row) -> None:
        if row["clinic"] == "west":
            row["who"] = f"w{number % 3}"

    write(tmp_path, patients(change=often))
    data = study_data(study(tmp_path, top="smallest_site = 4\n"), None)
    assert cohort_of(data).left_out == ("west, with 3 patients: smallest_site = 4",)


def test_records_of_no_site_are_none_of_the_hospitals_that_are_named(tmp_path: Path) -> None:
    def nameless(number: int, row: Row) -> None:
        row["clinic"] = {8: "", 12: "?!", 16: "Annex", 20: "annex"}.get(number, row["clinic"])

    write(tmp_path, patients(change=nameless))
    with pytest.raises(InvalidPartition, match="no site's name"):
        study_data(study(tmp_path), None)
    data = study_data(study(tmp_path, top=FOUR), None)
    assert set(data.hospitals) == set(CLINICS)
    assert "records without a site, of 2 patients" in cohort_of(data).left_out
    with pytest.raises(InvalidPartition, match="would have one name: Annex, annex"):
        study_data(study(tmp_path, top=FOUR.replace("]", ', "annex"]')), None)


def test_a_patient_at_a_site_that_is_left_out_is_no_conflict(tmp_path: Path) -> None:
    def moved(number: int, row: Row) -> None:
        with_annex(number, row)
        if number == 9:
            row["who"] = "p8"

    write(tmp_path, patients(change=moved))
    assert study_data(study(tmp_path, top="smallest_site = 5\n"), None).hospitals.keys() == set(CLINICS)


def test_a_large_site_may_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, patients())
    data = study_data(study(tmp_path, top='hospitals = ["south", "east", "west"]\n'), None)
    assert {tier for tier, _ in data.hospitals.values()} == {"small"}


def test_the_public_set_may_be_of_a_site_that_takes_no_part(tmp_path: Path) -> None:
    write(tmp_path, patients())
    public = '[public]\nhospital = "west"\n'
    data = study_data(study(tmp_path, top='hospitals = ["north", "south", "east"]\n', more=public), None)
    assert set(data.hospitals) == {"north", "south", "east"}
    assert data.public.labels is not None
    assert set(data.public.labels) == {data.data_section_fields["classes"].index("well")}


@pytest.mark.parametrize(
    ("top", "partition", "error", "words"),
    [
        ('hospitals = ["north", "nowhere"]\n', SITES, InvalidConfiguration, "no hospital 'nowhere'"),
        ("smallest_site = 101\n", SITES, InvalidPartition, "no site has 101 patients"),
        ('hospitals = ["north", "south"]\n', SITES, InvalidPartition, "2 hospitals, and a study needs 3"),
        ("smallest_site = 5\n", '[partition]\nkind = "sizes"\n', InvalidConfiguration, "as they came"),
        (FOUR + "smallest_site = 101\n", SITES, InvalidConfiguration, "'north', which has 100 patients"),
        (
            "",
            SITES + "minimum_patients = 95\n",
            InvalidPartition,
            r"east would have \d+ patients, .*, and 95 are needed",
        ),
    ],
)
def test_what_leaves_no_study_is_refused_by_name(
    tmp_path: Path, top: str, partition: str, error: type[FedHelpError], words: str
) -> None:
    write(tmp_path, patients())
    with pytest.raises(error, match=words) as raised:
        study_data(study(tmp_path, top=top, partition=partition), None)
    if "minimum" in partition:
        assert "smallest_site" in raised.value.hint


def test_sites_of_the_catalog_are_chosen_by_their_names(tmp_path: Path) -> None:
    from secure_fedhelp.research.study_file import StudyFile

    with pytest.raises(ValueError, match="name those that take part"):
        StudyFile.model_validate({"name": "a", "dataset": "heart", "smallest_site": 5})
    few = {"kind": "sizes", "shares": {"a": 50, "b": 30, "c": 20, "d": 0.1}}
    file = StudyFile.model_validate({"name": "a", "dataset": "breast-cancer", "partition": few})
    with pytest.raises(InvalidPartition, match="d would have"):
        study_data(file, None)
    assert set(study_data(file.model_copy(update={"hospitals": ("a", "b", "c")}), None).hospitals) == {"a", "b", "c"}
