"""The demo's teacher is good enough to teach, says the same after saving, and a bad file is refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from secure_fedhelp.errors import InvalidConfiguration, InvalidData, StorageError
from secure_fedhelp.research.teacher import Teacher, fit_teacher

MEDMNIST = Path(__file__).parents[2].parent / "shared/data/medmnist/pneumoniamnist.npz"


def auroc(labels: np.ndarray, logits: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return data.data.astype(np.float32), data.target.astype(np.int64)


def test_the_table_teacher_ranks_breast_cancer_well(table: tuple[np.ndarray, np.ndarray]) -> None:
    inputs, labels = table
    order = np.random.default_rng(0).permutation(len(inputs))
    teacher = fit_teacher(inputs[order[:150]], labels[order[:150]], 2, "table", seed=0)
    rest = order[150:]
    assert auroc(labels[rest], teacher.logits(inputs[rest])) > 0.97


def test_the_table_teacher_is_scikit_learns_logistic_regression(table: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, labels = table
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000)).fit(inputs, labels)
    logits = fit_teacher(inputs, labels, 2, "table", seed=0).logits(inputs).astype(np.float64)
    ours = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs.predict_proba(inputs), atol=1e-3)


@pytest.mark.skipif(not MEDMNIST.exists(), reason="the chest X-ray file is not part of the project")
def test_the_image_teacher_ranks_chest_x_rays_well_in_seconds() -> None:
    with np.load(MEDMNIST) as data:
        inputs = (data["train_images"][:, None] / 255).astype(np.float32)
        labels = data["train_labels"].ravel().astype(np.int64)
        test = (data["test_images"][:, None] / 255).astype(np.float32)
        test_labels = data["test_labels"].ravel()
    chosen = np.random.default_rng(0).choice(len(inputs), 300, replace=False)
    start = time.process_time()
    teacher = fit_teacher(inputs[chosen], labels[chosen], 2, "image", seed=0)
    assert time.process_time() - start < 10
    assert teacher.input_shape == (1, 28, 28)
    assert auroc(test_labels, teacher.logits(test)) > 0.9


def three_classes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    inputs = rng.normal(size=(60, 1, 4, 4)) * 0.3
    inputs[np.arange(60), 0, labels, labels] += 2
    return inputs.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("kind", ["table", "image"])
def test_more_classes_than_two(kind: str) -> None:
    inputs, labels = three_classes()
    teacher = fit_teacher(inputs, labels, 3, kind, seed=0)  # type: ignore[arg-type]
    logits = teacher.logits(inputs)
    assert (logits.shape, logits.dtype, teacher.classes) == ((60, 3), np.float32, 3)
    assert (logits.argmax(axis=1) == labels).mean() > 0.95


def test_one_seed_gives_one_teacher_and_another_seed_another() -> None:
    inputs, labels = three_classes()
    versions = [fit_teacher(inputs, labels, 3, "image", seed=s).version for s in (1, 1, 2)]
    assert versions[0] == versions[1] != versions[2]


def test_a_saved_teacher_says_the_same(tmp_path: Path) -> None:
    inputs, labels = three_classes()
    teacher = fit_teacher(inputs, labels, 3, "image", seed=0)
    teacher.save(tmp_path / "teacher.npz")
    again = Teacher.load(tmp_path / "teacher.npz")
    assert again.logits(inputs).tobytes() == teacher.logits(inputs).tobytes()
    assert again.version == teacher.version


def test_a_constant_column_does_not_divide_by_zero() -> None:
    inputs = np.array([[0, 5], [1, 5], [2, 5], [3, 5]], dtype=np.float32)
    assert np.isfinite(fit_teacher(inputs, np.array([0, 0, 1, 1]), 2, "table", seed=0).logits(inputs)).all()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1], [0, 1, 2], [-1, 0, 1]])
def test_labels_that_do_not_fit_are_refused(labels: list[int]) -> None:
    with pytest.raises(InvalidData):
        fit_teacher(np.eye(3, dtype=np.float32), np.array(labels), 2, "table", seed=0)


def test_inputs_of_another_shape_are_refused() -> None:
    teacher = Teacher(((np.ones((3, 2)), np.zeros(2)),), (3,))
    with pytest.raises(ValueError, match="expected"):
        teacher.logits(np.ones((1, 4), dtype=np.float32))


def write(path: Path, **arrays: object) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


W, B = np.ones((3, 2)), np.zeros(2)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"input_shape": [3]},
        {"input_shape": [4], "weights0": W, "offsets0": B},
        {"input_shape": [3], "weights0": W, "offsets0": np.zeros(3)},
        {"input_shape": [3], "weights0": W * np.nan, "offsets0": B},
        {"input_shape": [3], "weights0": W, "offsets0": np.array([None, None])},
        {"input_shape": 3, "weights0": W, "offsets0": B},
        {"input_shape": [3], "weights0": np.array([["a", "b"]] * 3), "offsets0": B},
    ],
)
def test_a_file_that_holds_no_teacher_is_refused(tmp_path: Path, arrays: dict[str, object]) -> None:
    write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InvalidConfiguration):
        Teacher.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(InvalidConfiguration):
        Teacher.load(tmp_path / "bad.npz")


def test_a_missing_file_is_refused_and_an_unwritable_one_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="No such file"):
        Teacher.load(tmp_path / "absent.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(StorageError):
        Teacher(((W, B),), (3,)).save(tmp_path / "folder.npz")


def bright_spots(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 2, 9, 8] of noise, and masks of where the mean of both channels over three pixels in a row is high."""
    inputs = np.random.default_rng(seed).normal(size=(n, 2, 9, 8)).astype(np.float32)
    padded = np.pad(inputs.mean(axis=1), ((0, 0), (0, 0), (1, 1)), mode="edge")
    return inputs, (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:] > 1).astype(np.int64)


def test_the_pixel_teacher_finds_what_lies_around_each_pixel(tmp_path: Path) -> None:
    teacher = fit_teacher(*bright_spots(30, 1), 2, "image", seed=0)
    inputs, masks = bright_spots(10, 2)
    logits = teacher.logits(inputs)
    assert logits.shape == (10, *teacher.answer_shape) == (10, 2, 9, 8)
    assert auroc(masks.ravel(), np.moveaxis(logits, 1, -1).reshape(-1, 2)) > 0.95
    teacher.save(tmp_path / "t.npz")
    assert Teacher.load(tmp_path / "t.npz").logits(inputs).tobytes() == logits.tobytes()


def test_a_pixels_answer_follows_from_the_square_around_it() -> None:
    rng = np.random.default_rng(3)
    layers = ((rng.normal(size=(18, 4)), rng.normal(size=4)), (rng.normal(size=(4, 3)), rng.normal(size=3)))
    inputs = rng.normal(size=(2, 2, 5, 4)).astype(np.float32)
    found = Teacher(layers, (2, 5, 4), patch=3).logits(inputs)
    for n, i, j in np.ndindex(2, 5, 4):
        values = [
            float(inputs[n, c, min(max(i + a, 0), 4), min(max(j + b, 0), 3)])
            for c in range(2)
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
        ]
        hidden = np.maximum(np.asarray(values) @ layers[0][0] + layers[0][1], 0)
        np.testing.assert_allclose(found[n, :, i, j], hidden @ layers[1][0] + layers[1][1], atol=1e-4)


@pytest.mark.parametrize(("shape", "patch"), [((2, 5, 4), 2), ((2, 5, 4), 5), ((40,), 3), ((2, 5, 4), -1)])
def test_squares_that_no_image_has_are_refused(shape: tuple[int, ...], patch: int) -> None:
    with pytest.raises(ValueError, match="squares of"):
        Teacher(((np.zeros((18, 2)), np.zeros(2)),), shape, patch)
