"""The card warns of what a public constant hides: another unit, a code for missing, a window that fits no pixel; and it
is silent about ordinary patients, shifted ones and long tails, for a card that always warns is read by nobody."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import example_plan
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from secure_fedhelp.data import suspicion
from secure_fedhelp.data.card import DataCard, data_card
from secure_fedhelp.data.card_json import card_json
from secure_fedhelp.data.columns import CategoryCounts
from secure_fedhelp.data.counting import count_columns
from secure_fedhelp.data.encoding import encode
from secure_fedhelp.data.images import CENTER, SCALE, normalise
from secure_fedhelp.data.loaded import Loaded, Tones
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.records import Records
from secure_fedhelp.research.catalog import HEART_SITES, prepare
from secure_fedhelp.research.catalog import _heart_rows as heart_rows
from secure_fedhelp.research.schema import infer_column, numeric_column
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import Column

PATIENTS = 80
Draw = Callable[[np.random.Generator, int], Sequence[float | str]]


def plan_of(*columns: Column) -> StudyPlan:
    values = example_plan().model_dump(mode="json", exclude_none=True)
    listed = [column.model_dump(mode="json") for column in columns]
    values["data"] |= {"kind": "table", "input_shape": [sum(c.width for c in columns)], "columns": listed}
    return parse_plan(values)


def card_of(folder: Path, column: Column, values: Sequence[float | str]) -> DataCard:
    """The card of a table with this column, by the way of a hospital's own file."""
    lines = [f"p{n},{value},{('ill', 'healthy')[n % 2]}" for n, value in enumerate(values)]
    (folder / "r.csv").write_text(f"patient_id,{column.name},target\n" + "\n".join(lines) + "\n")
    plan = plan_of(column)
    return data_card(load_records(folder / "r.csv", plan.data), plan, "beta")


def kinds(column: Column, values: Sequence[str]) -> list[str]:
    """What is told of a column, without a file."""
    features = np.asarray([encode(text, column, "") for text in values])
    found = count_columns(features, [column], lambda _: values)
    return [one.kind for one in suspicion.of_columns(found, plan_of(column).data, len(values))]


def normal(middle: float, spread: float, digits: int = 0) -> Draw:
    return lambda rng, n: np.round(rng.normal(middle, spread, n), digits).tolist()


def times(draw: Draw, factor: float, plus: float = 0.0) -> Draw:
    return lambda rng, n: [float(value) * factor + plus for value in draw(rng, n)]


def with_codes(draw: Draw, share: float, *codes: float) -> Draw:
    def mixed(rng: np.random.Generator, n: int) -> Sequence[float | str]:
        values, count = list(draw(rng, n)), int(n * share)
        values[:count] = [codes[i % len(codes)] for i in range(count)]
        return values

    return mixed


def joined(one: Draw, other: Draw, share: float) -> Draw:
    return lambda rng, n: [*one(rng, n - int(n * share)), *other(rng, int(n * share))]


def same(value: float | str) -> Draw:
    return lambda rng, n: [value] * n


AGE, WEIGHT, HEIGHT, FEVER = normal(60, 12), normal(80, 16, 1), normal(170, 10), normal(37.2, 0.8, 1)
CREATININE: Draw = lambda rng, n: np.round(rng.lognormal(0, 0.4, n), 2).tolist()  # noqa: E731
CHOLESTEROL, SCORE = normal(240, 50), normal(5, 2)
FINDING: Draw = lambda rng, n: (rng.random(n) < 0.05).astype(float).tolist()  # noqa: E731

WRONG: dict[str, tuple[Draw, Draw, str]] = {
    "ages times twelve": (AGE, times(AGE, 12), "middle"),
    "ages in days": (AGE, times(AGE, 365.25), "middle"),
    "years where the plan has months": (times(AGE, 12), AGE, "middle"),
    "years of birth": (AGE, times(AGE, -1, 2020), "middle"),
    "pounds for kilograms": (WEIGHT, times(WEIGHT, 2.2046), "middle"),
    "kilograms for pounds": (times(WEIGHT, 2.2046), WEIGHT, "factor middle"),
    "inches for centimetres": (HEIGHT, times(HEIGHT, 1 / 2.54), "middle"),
    "metres for centimetres": (HEIGHT, times(HEIGHT, 0.01), "middle"),
    "Fahrenheit for Celsius": (FEVER, times(FEVER, 1.8, 32), "middle"),
    "a lost decimal point": (FEVER, times(FEVER, 10), "middle"),
    "micromoles for milligrams": (CREATININE, times(CREATININE, 88.4), "middle"),
    "milligrams for micromoles": (times(CREATININE, 88.4), CREATININE, "spread factor middle"),
    "per cent for a share": (normal(0.55, 0.1, 2), times(normal(0.55, 0.1, 2), 100), "middle"),
    "one row in fifteen in months": (AGE, joined(AGE, times(AGE, 12), 1 / 15), "cut"),
    "-999": (AGE, with_codes(AGE, 0.1, -999), "code"),
    "-999 more often than not": (AGE, with_codes(AGE, 0.6, -999), "code"),
    "-9": (AGE, with_codes(AGE, 0.1, -9), "code"),
    "999 and 99999": (AGE, with_codes(AGE, 0.2, 999, 99999), "code"),
    "-99 beside -999": (AGE, with_codes(AGE, 0.2, -99, -999), "code"),
    "97, 98, 99 of a score to ten": (SCORE, with_codes(SCORE, 0.2, 97, 98, 99), "code"),
    "0 of a cholesterol": (CHOLESTEROL, with_codes(CHOLESTEROL, 0.1, 0), "code"),
    "9 of a rare finding": (FINDING, with_codes(FINDING, 0.1, 9), "code"),
    "-999 twice": (AGE, with_codes(AGE, 0.03, -999), "code"),
    "constant": (AGE, same(61), "constant"),
    "constant 0, which is no finding": (CHOLESTEROL, same(0), "constant"),
    "empty": (AGE, same(""), "missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_unit_or_a_code_is_told_by_its_kind(name: str) -> None:
    """By eight draws of it, and public sets of forty."""
    public, own, kind = WRONG[name]
    told = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        column = numeric_column("x", [repr(float(value)) for value in public(rng, 40)])
        found = kinds(column, [str(value) for value in own(rng, PATIENTS)])
        assert len(found) <= 3
        told += bool(found) and {*found} <= {*kind.split()}
    assert told >= 7, found


def test_a_warning_has_the_figures_that_a_data_manager_looks_for(tmp_path: Path) -> None:
    column = Column(name="age", kind="numeric", center=60.0, scale=12.0)
    ages = [12 * age for age in range(30, 90)]
    card = card_of(tmp_path, column, ages)
    (warning,) = card.warnings
    assert warning.text.startswith("the median is 714, 54.5 scales from the centre; the plan expects about 60")
    assert f"cut at ten scales: age {sum(a > 180 for a in ages)}" in "\n".join(card.lines())
    assert "  warning: column age: the median is 714" in "\n".join(card.lines())
    card = card_of(tmp_path, column, [*range(30, 90), -999, -999, -999])
    assert [one.text for one in card.warnings] == [
        "-999 comes 3 times (4.8%), far from all other values. If it stands for missing, leave it empty"
    ]


def test_missing_values_are_no_part_of_middle_and_spread(tmp_path: Path) -> None:
    """They become the centre for a model; a card that counted them there would hide a unit."""
    age_column = Column(name="age", kind="numeric", center=60.0, scale=12.0)
    card = card_of(tmp_path, age_column, ["", "?"] * 40 + ["700", "720"] * 5)
    (age,) = card.numeric
    assert (age.missing, age.known, age.quantiles and age.quantiles.median) == (80, 10, 710.0)
    assert [one.kind for one in card.warnings] == ["middle"]


HONEST: dict[str, Draw] = {
    "normal": AGE,
    "log-normal": lambda rng, n: rng.lognormal(3, 0.8, n).tolist(),
    "counts": lambda rng, n: rng.poisson(2.0, n).tolist(),
    "a finding": lambda rng, n: (rng.random(n) < 0.3).astype(int).tolist(),
    "a rare finding": lambda rng, n: (rng.random(n) < 0.04).astype(int).tolist(),
    "nearly everybody": lambda rng, n: (rng.random(n) < 0.97).astype(int).tolist(),
    "a dose that most do not take": lambda rng, n: np.where(rng.random(n) < 0.6, 0, rng.normal(100, 15, n)).tolist(),
    "top-coded": lambda rng, n: np.minimum(np.round(rng.normal(75, 12, n)), 90).tolist(),
    "two groups": lambda rng, n: (rng.normal(0, 1, n) + 6 * (rng.random(n) < 0.5)).tolist(),
    "codes of 1 and 2": lambda rng, n: rng.integers(1, 3, n).tolist(),
}


@pytest.mark.parametrize("name", HONEST)
def test_ordinary_columns_are_passed_in_silence(name: str) -> None:
    """600 hospitals of 15 to 200 patients with public sets of 30: at most one in a hundred is told of anything."""
    told = list[list[str]]()
    for seed in range(600):
        rng = np.random.default_rng(seed)
        column = numeric_column("x", [repr(float(value)) for value in HONEST[name](rng, 30)])
        told.append(kinds(column, [str(value) for value in HONEST[name](rng, (15, 60, 200)[seed % 3])]))
    assert sum(map(bool, told)) <= 6, [one for one in told if one]


@pytest.mark.parametrize("load", [load_breast_cancer, load_diabetes, load_wine])
def test_published_tables_are_passed_in_silence(load: Callable[..., object]) -> None:
    table = np.asarray(getattr(load(**({"scaled": False} if load is load_diabetes else {})), "data"))  # noqa: B009
    told, columns = list[list[str]](), 0
    for seed in range(6):
        drawn = np.random.default_rng(seed).permutation(len(table))
        public, own = table[drawn[:30]], table[drawn[30 : 30 + (12, 60, 130)[seed % 3]]]
        for number in range(table.shape[1]):
            column = numeric_column("x", [repr(float(value)) for value in public[:, number]])
            told.append(kinds(column, [repr(float(value)) for value in own[:, number]]))
            columns += 1
    assert sum(map(bool, told)) <= columns / 100, [one for one in told if one]


@given(st.integers(0, 2**32 - 1), st.floats(-1.4, 1.4), st.floats(0.5, 2))
def test_a_site_that_is_shifted_is_passed_in_silence(seed: int, moved: float, wider: float) -> None:
    """Older patients by more than a scale, or twice as mixed: other patients, and no other unit."""
    rng = np.random.default_rng(seed)
    column = Column(name="x", kind="numeric", center=100.0, scale=20.0)
    assert kinds(column, [f"{v:.3f}" for v in rng.normal(100 + 20 * moved, 20 * wider, 60)]) == []


def test_a_finding_that_nobody_has_is_no_fault_unless_the_plan_makes_it_unlikely() -> None:
    rare = numeric_column("x", ["1", *["0"] * 29])
    assert kinds(rare, ["0"] * 60) == []
    assert kinds(rare, ["0"] * 600) == ["constant"]
    common = numeric_column("x", [*["1"] * 15, *["0"] * 15])
    assert kinds(common, ["0"] * 60) == ["constant"]
    public_too = numeric_column("x", ["7"] * 30)
    assert kinds(public_too, ["7"] * 60) == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40), st.floats(1e-300, 1e300))
def test_no_number_breaks_a_card(values: list[float], scale: float) -> None:
    kinds(Column(name="x", kind="numeric", center=1e5, scale=scale), [repr(value) for value in values])


# --- categories -----------------------------------------------------------------------------------------------------

SEX = Column(name="sex", kind="categorical", categories=("f", "m"), other=True)


@pytest.mark.parametrize(
    ("values", "told", "words"),
    [
        (["f"] * 30 + ["m"] * 30 + ["x"] * 2, False, ""),
        (["f"] * 60, False, ""),
        (["1"] * 30 + ["2"] * 30, True, "'1' 30, '2' 30; the plan lists f, m"),
        (["F"] * 2 + ["f"] * 58, True, "2 values (3.3%) are none of the plan's categories, most often 'F' 2"),
        (["?"] * 60, True, "every value is missing"),
    ],
)
def test_another_coding_is_told_and_rare_categories_are_not(
    tmp_path: Path, values: list[str], told: bool, words: str
) -> None:
    card = card_of(tmp_path, SEX, values)
    assert bool(card.warnings) == told
    assert words in "".join(one.text for one in card.warnings)


def test_a_card_counts_what_is_not_listed_and_names_the_commonest(tmp_path: Path) -> None:
    card = card_of(tmp_path, SEX, ["f"] * 5 + ["m"] * 2 + ["x", "x", "y", ""])
    assert card.categorical == (CategoryCounts("sex", 11, 1, {"f": 5, "m": 2}, 3, (("x", 2), ("y", 1))),)
    said = "column sex: f 5 (50.0%), m 2 (20.0%), and 3 not listed (30.0%, 'x' 2, 'y' 1); 1 missing"
    assert f"  {said}" in card.lines()


# --- the hearts of four sites ---------------------------------------------------------------------------------------


def heart_table(folder: Path, raw: bool) -> dict[str, list[tuple[str, ...]]]:
    """Rows of each site; ``raw`` as they were published, else as the catalog reads them, 0 being missing."""
    files = {site: folder / file for site, file in HEART_SITES.items()}
    if not raw:
        return {site: [tuple(row) for row in heart_rows(path)] for site, path in files.items()}
    return {
        site: [tuple(cell.strip() for cell in row) for row in csv.reader(path.read_text().splitlines())]
        for site, path in files.items()
    }


@pytest.mark.parametrize("raw", [False, True])
def test_hearts_of_four_sites_are_told_of_what_is_odd_there(shared_data: Path, raw: bool) -> None:
    """Four countries, and a public set of thirty: nothing but a cholesterol that one site never measured. As published
    that is 0, at another site in a quarter of the rows."""
    told: dict[tuple[str, str | None], set[str]] = {}
    sites = heart_table(shared_data / "uci_heart", raw)
    for seed in range(4):
        columns = prepare("heart", shared_data, seed).data_section_fields["columns"]
        for site, rows in sites.items():
            cells = {column.name: [row[n] for row in rows] for n, column in enumerate(columns)}
            features = np.asarray(
                [[x for c, t in zip(columns, row, strict=False) for x in encode(t, c, "")] for row in rows]
            )
            found = count_columns(features, columns, cells.__getitem__)
            for one in suspicion.of_columns(found, plan_of(*columns).data, len(rows)):
                told.setdefault((site, one.column), set()).add(one.kind)
    never = {("switzerland", "cholesterol"): {"constant" if raw else "missing"}}
    assert told == never | ({("long-beach", "cholesterol"): {"code"}} if raw else {})


# --- images ---------------------------------------------------------------------------------------------------------


def image_card(inputs: np.ndarray, tones: Tones | None = None) -> DataCard:
    records = Records(inputs, np.arange(len(inputs)) % 2, tuple(f"p{n}" for n in range(len(inputs))))
    return data_card(Loaded(records, tones=tones), example_plan(), "beta")


def grey(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - CENTER) / SCALE, dtype=np.float32)


@pytest.mark.parametrize(
    ("tones", "kind", "words"),
    [
        (Tones(1000, 0, 890, 0, 890), "white", "89.0% of all pixels are white"),
        (Tones(1000, 0, 0, 0, 890), "white", "89.0% of all pixels are white"),
        (Tones(1000, 890, 0, 890, 0), "black", "89.0% of all pixels are black. Is [data] intensity, 0 to 255, right"),
        (Tones(1000, 0, 520, 0, 520), "white", "52.0%"),
        (Tones(1000, 700, 50, 720, 50), None, ""),  # CT in a window: air is cut
        (Tones(1000, 0, 0, 800, 10), None, ""),  # a mammogram: the dark round a breast
        (Tones(1000, 0, 0, 0, 600), None, ""),  # a stained slide: glass
    ],
)
def test_a_window_that_fits_no_pixel_is_told(tones: Tones, kind: str | None, words: str) -> None:
    rng = np.random.default_rng(0)
    card = image_card(grey(rng.random((4, 1, 28, 28))), tones)
    assert [one.kind for one in card.warnings] == ([kind] if kind else [])
    assert words in "".join(one.text for one in card.warnings)


def test_arrays_are_told_as_far_as_they_show() -> None:
    rng = np.random.default_rng(0)
    usual = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert image_card(normalise(usual)).warnings == ()
    white = np.where(rng.random((40, 28, 28)) < 0.89, 255, usual).astype(np.uint8)
    (warning,) = image_card(normalise(white)).warnings
    assert warning.kind == "white"
    twelve_bits_too_wide = grey(rng.random((40, 1, 28, 28)) * 255 / 4095)
    assert [one.kind for one in image_card(twelve_bits_too_wide).warnings] == ["flat"]
    assert [one.kind for one in image_card(np.zeros((4, 1, 28, 28), dtype=np.float32)).warnings] == ["flat"]
    unscaled = np.asarray(rng.random((40, 1, 28, 28)) * 90, dtype=np.float32)
    assert [one.kind for one in image_card(unscaled).warnings] == ["white"]


def files(folder: Path, images: Mapping[str, np.ndarray]) -> DataCard:
    """The card of an index of NIfTI files; each array is [columns, rows, slices]."""
    rows = []
    for name, stored in images.items():
        nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), folder / f"{name}.nii")
        rows += [f"{name}.nii,{at},{name},{('healthy', 'ill')[at % 2]}\n" for at in range(stored.shape[2])]
    (folder / "index.csv").write_text("file,slice,patient_id,target\n" + "".join(rows))
    return data_card(load_records(folder / "index.csv", example_plan().data), example_plan(), "beta")


@pytest.mark.parametrize(
    ("factor", "kind", "words"),
    [
        (
            16,
            "white",
            "2 file(s) have more than half of the pixels beyond white: odd0.nii, odd1.nii. Is [data] intensity",
        ),
        (1 / 255, "fractions", "2 file(s) have only values between -1 and 1"),
        (1, None, ""),
    ],
)
def test_a_few_files_of_another_scale_are_told_by_their_names(
    tmp_path: Path, factor: float, kind: str | None, words: str
) -> None:
    """Two scanners, or two programs: over all pixels together the card is as it must be."""
    rng = np.random.default_rng(0)
    usual = {f"scan{n}": rng.uniform(0, 255, (9, 9, 4)).astype(np.float32) for n in range(6)}
    odd = {f"odd{n}": (rng.uniform(0, 255, (9, 9, 4)) * factor).astype(np.float32) for n in range(2)}
    card = files(tmp_path, usual | odd)
    assert [one.kind for one in card.warnings] == ([kind] if kind else [])
    assert words in "".join(one.text for one in card.warnings)


def test_the_faint_end_of_a_volume_is_no_normalised_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = rng.uniform(0, 255, (9, 9, 4)).astype(np.float32)
    volume[..., 0] /= 400
    assert files(tmp_path, {"scan": volume, "other": volume[::-1]}).warnings == ()


def test_pixels_that_become_black_and_white_are_counted() -> None:
    inputs = np.zeros((3, 1, 28, 28), dtype=np.float32)
    inputs[0, 0, 0, :5], inputs[1, 0, 0, :3], inputs[2, 0, 0, :2] = -2.0, 2.0, 2.5
    card = image_card(inputs)
    assert card.tones == Tones(pixels=3 * 28 * 28, below=0, above=2, black=5, white=5)
    assert dict(card.rows())["white pixels"] == "0.2% of all, 0.1% beyond"


def test_public_columns_are_no_warning_for_their_own_hospital() -> None:
    """What is inferred from records tells nothing of them."""
    rng = np.random.default_rng(1)
    values = [f"{value:.1f}" for value in rng.normal(50, 9, 60)]
    assert kinds(infer_column("x", values), values) == []


def test_volumes_that_lie_otherwise_than_others_are_warned_of_on_the_terminal_and_in_json() -> None:
    said, plan = "volumes lie in different ways", example_plan()
    inputs = grey(np.random.default_rng(0).random((4, 1, 28, 28)))
    records = Records(inputs, np.arange(4) % 2, ("a", "b", "c", "d"))
    assert data_card(Loaded(records), plan, "beta").warnings == ()
    card = data_card(Loaded(records, turned=said), plan, "beta")
    assert f"  warning: {said}" in card.lines()
    (warning,) = json.loads(card_json(card, plan, "beta", None))["warnings"]
    assert warning == {"kind": "orientation", "column": None, "text": said}
