"""Image files: no pickle, no bomb, no array that the plan does not describe."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fedhelp.data import npz as archives
from secure_fedhelp.data.images import load_images, load_public, normalise, write_images, write_public
from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.errors import InvalidData, InvalidValue, PublicSetMismatch
from secure_fedhelp.study import reading as bounds
from secure_fedhelp.study.sections import DataSection

DATA = DataSection(
    dataset="scans",
    kind="image",
    classes=("normal", "ill"),
    input_shape=(1, 4, 4),
    public_sha256="0" * 64,
    public_records=3,
)
GREY = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
LABELS = np.asarray([0, 1, 1])


def npz(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "scans.npz"
    np.savez(path, **arrays)
    return path


def test_grey_values_become_normalised_floats(tmp_path: Path) -> None:
    found = load_images(npz(tmp_path, images=GREY, labels=LABELS, patients=np.asarray([7, 8, 8])), DATA)
    assert found.inputs.shape == (3, 1, 4, 4)
    assert found.inputs.dtype == np.float32
    assert found.patients == ("7", "8", "8")
    assert found.n_patients == 2
    np.testing.assert_allclose(normalise(np.asarray([[[0, 255]]], dtype=np.uint8)).ravel(), [-2.0, 2.0])


def test_images_round_trip_exactly(tmp_path: Path) -> None:
    wanted = Records(normalise(GREY), LABELS.astype(np.int64), ("a", "b", "c"))
    write_images(tmp_path / "i.npz", wanted)
    assert (tmp_path / "i.npz").stat().st_mode & 0o077 == 0
    found = load_images(tmp_path / "i.npz", DATA)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.patients == wanted.patients


GOOD = {"images": GREY, "labels": LABELS, "patients": np.asarray(["a", "b", "c"])}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": None}, InvalidData, "no array 'images'"),
        ({"patients": None}, InvalidData, "no array 'patients'"),
        ({"images": GREY.astype(np.float64)}, InvalidData, "float64"),
        ({"images": GREY[:, :3]}, InvalidData, "shape"),
        ({"images": GREY[:0]}, InvalidData, "shape"),
        ({"images": np.full((3, 1, 4, 4), np.inf, dtype=np.float32)}, InvalidData, "infinity"),
        ({"labels": LABELS + 1}, InvalidValue, "label 2 of record 1"),
        ({"labels": LABELS - 1}, InvalidValue, "label -1 of record 0"),
        ({"labels": LABELS.astype(float)}, InvalidData, "integers"),
        ({"labels": LABELS[:2]}, InvalidData, "3 inputs"),
        ({"patients": np.asarray([0.5, 1, 2])}, InvalidData, "text or integers"),
        ({"patients": np.asarray(["a"])}, InvalidData, "patient identifiers"),
        ({"images": np.asarray([{"a": 1}], dtype=object)}, InvalidData, "Python objects"),
        ({"patients": np.asarray(["a", "b", "c"], dtype=object)}, InvalidData, "Python objects"),
        ({"images": np.zeros((3, 32, 32, 3), dtype=np.uint8)}, InvalidData, "channels come first"),
        ({"images": np.zeros((3, 32, 32, 1), dtype=np.float32)}, InvalidData, "channels come first"),
        ({"images": GREY.astype(np.float32)}, InvalidData, "channels, height and width"),
        ({"images": np.full((3, 1, 4, 4), 255.0, dtype=np.float32)}, InvalidValue, "scale images"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, change: dict[str, Any], error: type[InvalidData], words: str) -> None:
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(error, match=words):
        load_images(npz(tmp_path, **arrays), DATA)


def test_a_pickle_in_the_archive_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    path = npz(tmp_path, images=np.asarray([Bomb()], dtype=object), labels=LABELS, patients=LABELS)
    with pytest.raises(InvalidData):
        load_images(path, DATA)
    assert not (tmp_path / "owned").exists()


def test_files_that_are_no_archive_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="nowhere"):
        load_images(tmp_path / "nowhere.npz", DATA)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(InvalidData, match=r"junk\.npz: not a readable NPZ file: File is not a zip file") as raised:
        load_images(tmp_path / "junk.npz", DATA)
    assert "listed in an index" in raised.value.hint  # it may well be an image
    with zipfile.ZipFile(tmp_path / "half.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY")
    with pytest.raises(InvalidData):
        load_images(tmp_path / "half.npz", DATA)


def test_an_archive_that_unpacks_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path, **GOOD)
    monkeypatch.setattr(archives, "LARGEST_BYTES", 100)
    with pytest.raises(InvalidData, match="unpacks to"):
        load_images(path, DATA)


def test_a_small_archive_that_fills_the_memory_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros pack a thousand times; whatever else the archive has is packed once, and counts too."""
    monkeypatch.setattr(bounds, "_UNPACKED_FREELY", 2**20)
    bomb, honest = GOOD | {"images": np.zeros((3000, 28, 28), np.uint8)}, tmp_path / "honest.npz"
    np.savez_compressed(tmp_path / "bomb.npz", **bomb)
    monkeypatch.setattr(np.lib.format, "read_array", pytest.fail)
    with pytest.raises(InvalidData, match="more than 100 times as much"):
        load_images(tmp_path / "bomb.npz", DATA)
    monkeypatch.undo()
    monkeypatch.setattr(bounds, "_UNPACKED_FREELY", 2**20)
    np.savez_compressed(honest, **(bomb | {"rest": np.random.default_rng(1).integers(0, 255, 40_000, np.uint8)}))
    assert archives.read_arrays(honest, ["images"])["images"].shape == (3000, 28, 28)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_public_set_round_trips_under_its_hash(tmp_path: Path, labelled: bool) -> None:
    public = PublicSet.of(normalise(GREY), LABELS.astype(np.int64) if labelled else None)
    write_public(tmp_path / "public.npz", public)
    data = DATA.model_copy(update={"public_sha256": public.sha256, "public_labelled": labelled})
    found = load_public(tmp_path / "public.npz", data)
    assert found.sha256 == public.sha256
    assert (found.labels is not None) is labelled
    untrue = data.model_copy(update={"public_labelled": not labelled})
    with pytest.raises(InvalidData, match="has no labels" if labelled else "has labels"):
        load_public(tmp_path / "public.npz", untrue)


def test_another_public_set_than_the_plans_is_refused(tmp_path: Path) -> None:
    write_public(tmp_path / "public.npz", PublicSet.of(normalise(GREY), None))
    with pytest.raises(PublicSetMismatch, match="not the plan's"):
        load_public(tmp_path / "public.npz", DATA)


MASKED = DATA.model_copy(update={"task": "segmentation"})


def test_masks_round_trip_and_must_be_the_plans(tmp_path: Path) -> None:
    masks = (GREY > 20).astype(np.int64)
    wanted = Records(normalise(GREY), masks, ("a", "b", "c"))
    write_images(tmp_path / "m.npz", wanted)
    found = load_images(tmp_path / "m.npz", MASKED)
    assert found.masked
    np.testing.assert_array_equal(found.labels, masks)
    public = PublicSet.of(wanted.inputs, masks)
    write_public(tmp_path / "p.npz", public)
    plan = MASKED.model_copy(update={"public_sha256": public.sha256})
    assert load_public(tmp_path / "p.npz", plan).sha256 == public.sha256
    with pytest.raises(InvalidData, match="one list of integers"):
        load_images(tmp_path / "m.npz", DATA)
    with pytest.raises(InvalidData, match="a mask an image"):
        load_images(npz(tmp_path, images=GREY, labels=LABELS, patients=np.arange(3)), MASKED)
    masks[1, 2, 3] = 2
    with pytest.raises(InvalidValue, match="label 2 of record 1"):
        load_images(npz(tmp_path, images=GREY, masks=masks, patients=np.arange(3)), MASKED)
