"""Long loads tell how far they are while they go on, and not only before and after."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from small_catalog import write_catalog
from typer.testing import CliRunner

from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.cli.main import app
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.npz import read_arrays
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.research.catalog import deal_out
from secure_fedhelp.study.sections import Column, DataSection

DATA = DataSection(
    dataset="long",
    kind="table",
    classes=("0", "1"),
    input_shape=(1,),
    columns=(Column(name="age", kind="numeric", center=0.0, scale=10_000.0),),
    public_sha256="0" * 64,
    public_records=3,
)
ROWS = 20_000


def csv(folder: Path) -> Path:
    lines = ["patient_id,age,target", *(f"p{n},{n},{n % 2}" for n in range(ROWS))]
    (folder / "long.csv").write_text("\n".join(lines) + "\n")
    return folder / "long.csv"


def parquet(folder: Path) -> Path:
    numbers = list(range(ROWS))
    columns = {"patient_id": [f"p{n}" for n in numbers], "age": numbers, "target": [n % 2 for n in numbers]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "long.parquet")
    return folder / "long.parquet"


@pytest.mark.parametrize("write", [csv, parquet])
def test_a_long_table_is_told_of_while_it_is_read_and_while_it_is_checked(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    told: list[tuple[int, int]] = []
    records = load_records(write(tmp_path), DATA, progress=lambda what, done, total: told.append((done, total))).records
    assert len(records) == ROWS
    starts = [number for number, (done, _) in enumerate(told) if done == 0]
    assert len(starts) == 2, "reading, then checking"
    for phase in (told[: starts[1]], told[starts[1] :]):
        assert len({total for _, total in phase}) == 1
        assert phase == sorted(phase)
        assert sum(0 < done < total for done, total in phase) >= 5
        assert phase[-1][0] == phase[-1][1] > 0


def test_one_large_array_is_told_of_while_it_is_unpacked(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 255, (40, 256, 256), dtype=np.uint8)
    np.savez_compressed(tmp_path / "scans.npz", images=large, few=np.arange(3))
    told: list[tuple[int, int]] = []
    found = read_arrays(tmp_path / "scans.npz", ["few", "images"], progress=lambda _, *at: told.append(at))
    np.testing.assert_array_equal(found["images"], large)
    assert told == sorted(told)
    assert sum(0 < done < total for done, total in told) >= 5
    assert (told[0][0], told[-1][0]) == (0, told[-1][1])


def test_what_is_no_array_in_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("images.npy", b"not an array")
    with pytest.raises(InvalidData, match="not a readable NPZ"):
        read_arrays(tmp_path / "odd.npz", ["images"])
    np.savez(tmp_path / "odd.npz", images=np.asarray([{}], dtype=object))
    with pytest.raises(InvalidData, match="Python objects"):
        read_arrays(tmp_path / "odd.npz", ["images"])


@pytest.mark.parametrize("dataset", ["pneumonia", "breast", "retina"])
def test_image_sets_of_the_catalog_are_told_of(tmp_path: Path, dataset: str) -> None:
    write_catalog(tmp_path)
    told: list[tuple[int, int]] = []
    deal_out(dataset, tmp_path, 1, None, lambda what, *at: told.append(at))
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 0


def test_the_demonstration_tells_of_its_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[object] = []

    def prepare(*_: object, progress: object) -> None:
        given.append(progress)
        raise InvalidData("seen enough")

    monkeypatch.setattr("secure_fedhelp.research.demo.prepare", prepare)
    with pytest.raises(InvalidData, match="seen enough"):
        CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert [type(progress) for progress in given] == [LoadingBar]
