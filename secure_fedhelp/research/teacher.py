"""The demo's foundation model: a small teacher trained on a reference split that belongs to no hospital.

It is fitted with scikit-learn and kept as plain arrays: affine layers with ReLU between them. So whoever serves it
needs numpy alone, and a teacher file can be read without trusting it (``allow_pickle=False``).
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidConfiguration, InvalidData
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.files import write_atomic

Array = NDArray[np.float64]
#: Weights [inputs, outputs] and offsets [outputs] of one affine layer.
Layer = tuple[Array, Array]

#: Principal components and hidden units of the image teacher, its weight decay, and the standard deviation to which the
#: first component is scaled; chosen on PneumoniaMNIST and BreastMNIST with 300 reference images.
COMPONENTS, HIDDEN, DECAY, FIRST_DEVIATION = 40, 64, 1.0, 2.0


@dataclass(frozen=True, eq=False)
class Teacher:
    """Inputs float32 [n, *input_shape] to logits float32 [n, classes] through affine layers with ReLU between them."""

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        width = math.prod(self.input_shape)
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
    def version(self) -> str:
        """Twelve hexadecimal digits that name these very arrays."""
        return sha256_hex(self._bytes())[:12]

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, classes] of inputs [n, *input_shape]; ValueError for another shape."""
        if inputs.shape[1:] != self.input_shape:
            raise ValueError(
                f"inputs of shape {list(inputs.shape)}, [n, {', '.join(map(str, self.input_shape))}] expected"
            )
        values = inputs.reshape(len(inputs), -1).astype(np.float64)
        for number, (weights, offsets) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ weights + offsets
        return values.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the arrays as ``.npz``; raises StorageError."""
        write_atomic(path, self._bytes())

    @classmethod
    def load(cls, path: Path) -> Teacher:
        """Read a saved teacher; InvalidConfiguration if the file is missing or is none."""
        hint = "Give a file that fit_teacher(...).save(FILE) wrote."
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                count = (len(arrays.files) - 1) // 2
                layers = tuple((arrays[f"weights{i}"], arrays[f"offsets{i}"]) for i in range(count))
                return cls(layers, tuple(int(size) for size in arrays["input_shape"]))
        except OSError as error:
            raise InvalidConfiguration(f"teacher {path}: {error.strerror or 'not an .npz file'}", hint) from error
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise InvalidConfiguration(f"teacher {path}: not a teacher file ({error})", hint) from error

    def _bytes(self) -> bytes:
        arrays: dict[str, Any] = {"input_shape": np.asarray(self.input_shape, dtype=np.int64)}
        for number, (weights, offsets) in enumerate(self.layers):
            arrays[f"weights{number}"], arrays[f"offsets{number}"] = weights, offsets
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()


def fit_teacher(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    kind: Literal["table", "image"],
    seed: int,
) -> Teacher:
    """A teacher from a reference split: inputs [n, ...], labels [n] in 0..classes-1.

    A table gets logistic regression on standardised columns, an image principal components and one hidden layer.
    Raises InvalidData if a class has no example or the shapes do not fit.
    """
    present = set(np.unique(labels).tolist())
    if labels.shape != (len(inputs),) or present != set(range(classes)):
        raise InvalidData(
            f"the reference split has {len(inputs)} inputs, {labels.size} labels and the classes {sorted(present)}",
            f"A teacher of {classes} classes needs examples of each of them. Nothing was trained.",
        )
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    layers = _table_layers(flat, labels) if kind == "table" else _image_layers(flat, labels, seed)
    *before, (weights, offsets) = layers
    if classes == 2:  # scikit-learn gives one log-odds z; (-z/2, z/2) has the same softmax
        weights, offsets = np.hstack([-weights / 2, weights / 2]), np.concatenate([-offsets / 2, offsets / 2])
    return Teacher((*before, (weights, offsets)), inputs.shape[1:])


def _table_layers(flat: Array, labels: NDArray[np.int64]) -> tuple[Layer, ...]:
    from sklearn.linear_model import LogisticRegression

    center, scale = flat.mean(axis=0), flat.std(axis=0)
    scale[scale == 0] = 1.0
    model = LogisticRegression(C=0.3, max_iter=1000).fit((flat - center) / scale, labels)
    weights = model.coef_.T / scale[:, None]
    return ((weights, model.intercept_ - center @ weights),)


def _image_layers(flat: Array, labels: NDArray[np.int64], seed: int) -> tuple[Layer, ...]:
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    projection = PCA(min(COMPONENTS, len(flat) - 1, flat.shape[1]), random_state=seed).fit(flat)
    factor = FIRST_DEVIATION / math.sqrt(max(float(projection.explained_variance_[0]), 1e-12))
    model = MLPClassifier((HIDDEN,), alpha=DECAY, max_iter=300, random_state=seed)
    with warnings.catch_warnings():  # 300 epochs are enough for a teacher; they need not reach sklearn's tolerance
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(projection.transform(flat) * factor, labels)
    first = projection.components_.T @ model.coefs_[0] * factor
    return (first, model.intercepts_[0] - projection.mean_ @ first), (model.coefs_[1], model.intercepts_[1])
