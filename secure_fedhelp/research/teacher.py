"""The demo's foundation model: a small teacher trained on a reference split that belongs to no hospital.

It is fitted with scikit-learn and kept as plain arrays: affine layers with ReLU between them. So whoever serves it
needs numpy alone, and a teacher file can be read without trusting it (``allow_pickle=False``).
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidConfiguration, InvalidData
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import TEACHER, read_bounded

Array = NDArray[np.float64]
#: Weights [inputs, outputs] and offsets [outputs] of one affine layer.
Layer = tuple[Array, Array]

#: Principal components and hidden units of the image teacher, its weight decay, and the standard deviation to which the
#: first component is scaled; chosen on PneumoniaMNIST and BreastMNIST with 300 reference images.
COMPONENTS, HIDDEN, DECAY, FIRST_DEVIATION = 40, 64, 1.0, 2.0


#: The same of the pixel teacher, the side of the square of pixels that it sees, and the pixels that it is fitted on.
PIXEL_HIDDEN, PATCH, PIXELS = 24, 5, 40_000


@dataclass(frozen=True, eq=False)
class Teacher:
    """Inputs float32 [n, *input_shape] to logits float32 [n, classes] through affine layers with ReLU between them.

    With a ``patch`` it answers for each pixel, [n, classes, height, width], from the square of that odd side around it.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    patch: int = 0

    def __post_init__(self) -> None:
        pixels = min(self.input_shape[1:]) if len(self.input_shape) == 3 else 0
        if self.patch and not (self.patch % 2 and 0 < self.patch <= pixels):
            raise ValueError(f"squares of {self.patch} pixels in an input of shape {self.input_shape}")
        width = self.input_shape[0] * self.patch**2 if self.patch else math.prod(self.input_shape)
        if not self.layers or not self.input_shape or width < 1:
            raise ValueError("a teacher needs layers and an input shape")
        for weights, offsets in self.layers:
            if weights.ndim != 2 or weights.shape[0] != width or offsets.shape != weights.shape[1:]:
                raise ValueError(f"layer of shapes {weights.shape} and {offsets.shape} after {width} values")
            if not (np.isfinite(weights).all() and np.isfinite(offsets).all()):
                raise ValueError("a layer holds NaN or infinity")
            width = weights.shape[1]

    @property
    def classes(self) -> int:
        return len(self.layers[-1][1])

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of the logits on one input."""
        return (self.classes, *(self.input_shape[1:] if self.patch else ()))

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that name these very arrays."""
        return sha256_hex(self._bytes())[:12]

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, *answer_shape] of inputs [n, *input_shape]; ValueError for another shape."""
        if inputs.shape[1:] != self.input_shape:
            raise ValueError(
                f"inputs of shape {list(inputs.shape)}, [n, {', '.join(map(str, self.input_shape))}] expected"
            )
        flat = squares_of(inputs, self.patch) if self.patch else inputs.reshape(len(inputs), -1)
        values = flat.astype(np.float64)
        for number, (weights, offsets) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ weights + offsets
        if self.patch:
            values = np.moveaxis(values.reshape(len(inputs), *self.input_shape[1:], self.classes), -1, 1)
        return values.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the arrays as ``.npz``; raises StorageError."""
        write_atomic(path, self._bytes())

    @classmethod
    def load(cls, path: Path) -> Teacher:
        """Read a saved teacher; InvalidConfiguration if the file is missing or is none."""
        hint = "Give a file that fit_teacher(...).save(FILE) wrote."
        try:
            with np.load(io.BytesIO(read_bounded(path, TEACHER)), allow_pickle=False) as arrays:
                count = sum(name.startswith("weights") for name in arrays.files)
                layers = tuple((arrays[f"weights{i}"], arrays[f"offsets{i}"]) for i in range(count))
                patch = int(arrays["patch"]) if "patch" in arrays.files else 0
                return cls(layers, tuple(int(size) for size in arrays["input_shape"]), patch)
        except OSError as error:
            raise InvalidConfiguration(f"teacher {path}: {error.strerror or 'not an .npz file'}", hint) from error
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise InvalidConfiguration(f"teacher {path}: not a teacher file ({error})", hint) from error

    def _bytes(self) -> bytes:
        arrays: dict[str, Any] = {"input_shape": np.asarray(self.input_shape, dtype=np.int64)}
        if self.patch:
            arrays["patch"] = np.asarray(self.patch, dtype=np.int64)
        for number, (weights, offsets) in enumerate(self.layers):
            arrays[f"weights{number}"], arrays[f"offsets{number}"] = weights, offsets
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def teacher_of(plan: StudyPlan, reference: Records) -> Teacher:
    """The teacher that learnt from these records, by the plan's seed. Raises what fit_teacher does."""
    return fit_teacher(reference.inputs, reference.labels, len(plan.data.classes), plan.data.kind, plan.study.seed)


def together(answers: Sequence[NDArray[np.floating]], temperature: float = 1.0) -> NDArray[np.floating]:
    """Logits [n, classes, ...] of one teacher in place of two, for what knows one only; of one they are its own.

    Their softmax at ``temperature`` is the mean of the two's, so that KL(together || s) has the gradients in s of the
    mean of KL(one || s) and KL(other || s), by which hospitals learn from two (learning/steps.py): the divergences
    differ by what does not depend on s.
    """
    if len(answers) == 1:
        return answers[0]
    scaled = [np.asarray(logits, dtype=np.float64) / temperature for logits in answers]
    logs = [values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in scaled]
    return np.asarray(temperature * (np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))))


def fit_teacher(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    kind: Literal["table", "image"],
    seed: int,
) -> Teacher:
    """A teacher from a reference split: inputs [n, ...], labels [n] in 0..classes-1, or masks [n, height, width].

    A table gets logistic regression on standardised columns, an image principal components and one hidden layer, and
    with masks each pixel one hidden layer on the square around it. Raises InvalidData if a class has no example or the
    shapes do not fit.
    """
    present = set(np.unique(labels).tolist())
    masked = labels.ndim > 1
    if labels.shape != (len(inputs), *(inputs.shape[2:] if masked else ())) or present != set(range(classes)):
        raise InvalidData(
            f"the reference split has {len(inputs)} inputs, {labels.size} labels and the classes {sorted(present)}",
            f"A teacher of {classes} classes needs examples of each of them. Nothing was trained.",
        )
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    if masked:
        layers = _pixel_layers(inputs, labels, seed)
    else:
        layers = _table_layers(flat, labels) if kind == "table" else _image_layers(flat, labels, seed)
    *before, (weights, offsets) = layers
    if classes == 2:  # scikit-learn gives one log-odds z; (-z/2, z/2) has the same softmax
        weights, offsets = np.hstack([-weights / 2, weights / 2]), np.concatenate([-offsets / 2, offsets / 2])
    return Teacher((*before, (weights, offsets)), inputs.shape[1:], PATCH if masked else 0)


def _table_layers(flat: Array, labels: NDArray[np.int64]) -> tuple[Layer, ...]:
    from sklearn.linear_model import LogisticRegression

    center, scale = flat.mean(axis=0), flat.std(axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=0.3, max_iter=1000).fit((flat - center) / scale, labels)
    weights = model.coef_.T / scale[:, None]
    return ((weights, model.intercept_ - center @ weights),)


def _image_layers(flat: Array, labels: NDArray[np.int64], seed: int) -> tuple[Layer, ...]:
    from sklearn.decomposition import PCA

    projection = PCA(min(COMPONENTS, len(flat) - 1, flat.shape[1]), random_state=seed).fit(flat)
    factor = FIRST_DEVIATION / math.sqrt(max(float(projection.explained_variance_[0]), 1e-12))
    (hidden, offsets), last = _one_hidden_layer(projection.transform(flat) * factor, labels, HIDDEN, DECAY, 300, seed)
    first = projection.components_.T @ hidden * factor
    return (first, offsets - projection.mean_ @ first), last


def _pixel_layers(inputs: NDArray[np.float32], masks: NDArray[np.int64], seed: int) -> tuple[Layer, ...]:
    squares, labels = squares_of(inputs, PATCH), masks.reshape(-1)
    rng = np.random.default_rng(seed)
    first = [int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)]  # each class, however rare, has a pixel
    chosen = np.unique([*first, *rng.choice(len(labels), min(PIXELS, len(labels)), replace=False)])
    return _one_hidden_layer(squares[chosen].astype(np.float64), labels[chosen], PIXEL_HIDDEN, 1e-3, 30, seed)


def _one_hidden_layer(
    values: Array, labels: NDArray[np.int64], hidden: int, decay: float, epochs: int, seed: int
) -> tuple[Layer, Layer]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((hidden,), alpha=decay, max_iter=epochs, random_state=seed)
    with warnings.catch_warnings():  # these epochs are enough for a teacher; they need not reach sklearn's tolerance
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values, labels)
    return (model.coefs_[0], model.intercepts_[0]), (model.coefs_[1], model.intercepts_[1])


def squares_of(inputs: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The square around each pixel, [n * height * width, channels * side * side]; beyond the edge the edge goes on."""
    around = side // 2
    padded = np.pad(inputs, ((0, 0), (0, 0), (around, around), (around, around)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(-1, inputs.shape[1] * side * side)
