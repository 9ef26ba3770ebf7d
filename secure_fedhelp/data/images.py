"""Image records and the public set as NPZ files, checked against the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.doubles import copies_told
from secure_fedhelp.data.loaded import Loaded, Progress, silent
from secure_fedhelp.data.medmnist import NO_PATIENTS, Part, is_medmnist, read_medmnist
from secure_fedhelp.data.npz import array_names, read_arrays, write_arrays
from secure_fedhelp.data.patients import array_identifiers, patients_of
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Inputs, Labels, PublicSet, Records
from secure_fedhelp.errors import InvalidData, InvalidValue, PublicSetMismatch
from secure_fedhelp.study.sections import DataSection

#: Larger float inputs are refused: grey values that nobody has scaled, or a record that would drown all others.
LARGEST_VALUE = 100.0
#: Grey values 0..255 become (v / 255 - 0.5) / 0.25: public constants, near centre and spread of most images.
CENTER, SCALE = 0.5, 0.25


def normalise(images: NDArray[np.uint8]) -> Inputs:
    """uint8 [n, height, width] or [n, channels, height, width] to float32 [n, channels, height, width]."""
    array = images[:, None] if images.ndim == 3 else images
    return np.asarray((array.astype(np.float32) / 255.0 - CENTER) / SCALE, dtype=np.float32)


def load_images(path: Path, data: DataSection) -> Records:
    """The records of :func:`read_images`, for whoever needs nothing else of it."""
    return read_images(path, data).records


def read_images(
    path: Path, data: DataSection, part: Part = "open", progress: Progress = silent, reading: Reading = STANDARD
) -> Loaded:
    """Records of an NPZ that fit the plan; ``part`` says which part of a MedMNIST file is meant (data/medmnist.py).

    Raises InvalidData or InvalidValue.
    """
    loaded = read_image_set(path, len(data.classes), part, progress, reading)
    _fits(loaded.records.inputs, loaded.records.labels, data, path)
    return loaded


def read_image_set(
    path: Path, classes: int, part: Part = "open", progress: Progress = silent, reading: Reading = STANDARD
) -> Loaded:
    """Records of an NPZ with ``images``, ``patients`` and ``labels`` or ``masks``, or in MedMNIST's layout.

    ``images`` are uint8 (normalised here) or float32 (taken as they are), ``labels`` integers below ``classes``,
    ``masks`` the same for every pixel, ``patients`` text or whole numbers, one each. Raises InvalidData or
    InvalidValue.
    """
    named, notes = True, tuple[str, ...]()
    if is_medmnist(names := array_names(path)):
        images, targets, patients, named = read_medmnist(path, part, progress)
        notes = () if named else (f"{path.name}: {NO_PATIENTS}",)
    else:
        target = "masks" if "masks" in names else "labels"
        if {"masks", "labels"} <= names:
            raise InvalidData(f"{path.name}: has 'labels' and 'masks'; give one of them")
        arrays = read_arrays(path, ("images", target, "patients"), progress=progress)
        images, targets, patients = (arrays[name] for name in ("images", target, "patients"))
        if targets.ndim != (wanted := 3 if target == "masks" else 1):
            raise InvalidData(f"{path.name}: {target} must be {wanted}-dimensional integers")
    inputs, labels = _inputs(images, path), _labels(targets, classes, path)
    texts = array_identifiers(patients, path.name, "patients")
    people, told = patients_of(
        ((f"record {at}", text) for at, text in enumerate(texts)), path.name, "patients", reading
    )
    records = Records(inputs, labels, people)
    return Loaded(records, notes=notes + told + (copies_told(records, path.name) if named else ()))


def write_images(path: Path, records: Records) -> None:
    """Write image records as an NPZ that :func:`load_images` reads back exactly."""
    patients = np.asarray(records.patients, dtype=np.str_)
    target = "masks" if records.masked else "labels"
    write_arrays(path, {"images": records.inputs, target: records.labels, "patients": patients})


def load_public(path: Path, data: DataSection) -> PublicSet:
    """The public set of the plan from an NPZ with ``inputs`` and perhaps ``labels``.

    Raises PublicSetMismatch unless its hash is the plan's, InvalidData if the file is malformed, or has labels where
    the plan says it has none, or none where it has.
    """
    arrays = read_arrays(path, ("inputs",), ("labels",))
    try:
        inputs = _inputs(arrays["inputs"], path)
        labels = _labels(arrays["labels"], len(data.classes), path) if "labels" in arrays else None
        _fits(inputs, labels, data, path)
        public = PublicSet(inputs, labels, data.public_sha256)
        if (labels is not None) != data.public_labelled:  # else what a plan says of itself would not be so
            says = "has labels" if data.public_labelled else "has no labels"
            raise InvalidData(f"{path.name}: the plan says that its public set {says}", "Tell the plan's author.")
        return public
    except PublicSetMismatch as error:
        raise PublicSetMismatch(f"{path}: not the plan's public set, whose hash is {data.public_sha256}") from error


def write_public(path: Path, public: PublicSet) -> None:
    """Write a public set as an NPZ that :func:`load_public` reads back exactly."""
    labels = {} if public.labels is None else {"labels": public.labels}
    write_arrays(path, {"inputs": public.inputs, **labels}, mode=0o644)


def _inputs(array: NDArray[Any], path: Path) -> Inputs:
    """float32 [n, C, H, W], or [n, features] of a table's public set."""
    if array.ndim == 4 and array.shape[1] > 4 and array.shape[3] <= 4:
        reason = f"{path.name}: images of shape {array.shape[1:]}; channels come first, then height and width"
        raise InvalidData(reason, "Move them: np.moveaxis(images, -1, 1).")
    if array.dtype == np.float32 and array.ndim == 3:
        reason = f"{path.name}: float32 images of shape {array.shape[1:]}; channels, height and width are needed"
        raise InvalidData(reason, "Of grey images the channel is one: images[:, None].")
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        array = normalise(array)
    if array.dtype != np.float32:
        raise InvalidData(f"{path.name}: inputs of type {array.dtype}; uint8 or float32 is needed")
    if (np.abs(array[np.isfinite(array)]) > LARGEST_VALUE).any():
        raise InvalidValue(f"{path.name}: an input beyond {LARGEST_VALUE:g}; scale images to about one first")
    return array


def _fits(inputs: Inputs, labels: Labels | None, data: DataSection, path: Path) -> None:
    if labels is not None and (labels.ndim == 3) != data.masked:
        wanted = "integers [n, height, width], a mask an image" if data.masked else "one list of integers"
        raise InvalidData(f"{path.name}: by the plan's task labels must be {wanted}")
    if inputs.shape[1:] != data.input_shape or not len(inputs):
        raise InvalidData(f"{path.name}: inputs of shape {inputs.shape[1:]}, the plan says {data.input_shape}")


def _labels(array: NDArray[Any], classes: int, path: Path) -> Labels:
    if array.dtype.kind not in "iu" or array.ndim not in (1, 3):
        raise InvalidData(f"{path.name}: labels must be one list of integers, or a mask of integers for each image")
    wrong = np.argwhere((array < 0) | (array >= classes))
    if len(wrong):
        found = array[tuple(wrong[0])]
        raise InvalidValue(f"{path.name}: label {found} of record {wrong[0][0]} is not below {classes}")
    return array.astype(np.int64)
