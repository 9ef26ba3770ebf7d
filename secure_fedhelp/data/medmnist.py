"""MedMNIST's own NPZ layout (Yang et al., Scientific Data 2023): ``train_images``, ``train_labels``, and so on.

The files name no patients. Each distinct image then counts as one, known by the hash of its pixels: so it is the same
patient in every study and in every part, and a copy of an image is never somebody else. Where several images are of
one person, the guarantee is for each image and not for the person; arrays ``train_patients``, ``val_patients`` and
``test_patients`` put that right.

``train_masks`` and so on, a class for every pixel, may stand in place of the labels: an extension of ours.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.data.npz import array_names, read_arrays
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.canonical import sha256_hex

#: ``open``: what is trained with. ``test``: the official test part, as in published figures.
Part = Literal["open", "test"]
PARTS: dict[Part, tuple[str, ...]] = {"open": ("train", "val"), "test": ("test",)}
NO_PATIENTS = (
    "the file names no patients: each distinct image counts as one. Where several images are of one person, the "
    "guarantee is for each image, not for the person."
)


def is_medmnist(names: Collection[str]) -> bool:
    """Whether an NPZ with arrays of these names has the layout."""
    return "images" not in names and "train_images" in names and not {"train_labels", "train_masks"}.isdisjoint(names)


def read_medmnist(
    path: Path, part: Part, progress: Progress = silent
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], bool]:
    """Images uint8 [n, C, H, W], labels [n] or masks [n, H, W], patients [n], and whether the file named the patients.

    Raises InvalidData for volumes and for labels of several tasks, and whatever :func:`read_arrays` does.
    """
    parts, target = PARTS[part], "masks" if "train_masks" in (names := array_names(path)) else "labels"
    if {"train_masks", "train_labels"} <= names:
        raise InvalidData(f"{path.name}: has 'train_labels' and 'train_masks'; give one of them")
    needed = [f"{name}_{what}" for name in parts for what in ("images", target)]
    found = read_arrays(path, needed, [f"{name}_patients" for name in parts], progress)
    named = {f"{name}_patients" in found for name in parts}
    if len(named) > 1:
        raise InvalidData(f"{path.name}: patients are named in one of {' and '.join(parts)}, and not in the other")
    images = np.concatenate([_pixels(found[f"{name}_images"], path) for name in parts])
    read = _masks if target == "masks" else _classes
    labels = np.concatenate([read(found[f"{name}_{target}"], path) for name in parts])
    if named == {True}:
        return images, labels, np.concatenate([found[f"{name}_patients"] for name in parts]), True
    known = np.asarray([f"image-{sha256_hex(image.tobytes())[:24]}" for image in images], dtype=np.str_)
    return images, labels, known, False


def _pixels(images: NDArray[Any], path: Path) -> NDArray[Any]:
    """[n, H, W] or [n, H, W, 3] as [n, C, H, W]."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise InvalidData(f"{path.name}: images of {images.dtype} {images.shape}, not MedMNIST's 2-D ones")
    return images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)


def _classes(labels: NDArray[Any], path: Path) -> NDArray[Any]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    raise InvalidData(f"{path.name}: labels of shape {labels.shape}; one class an image, [n, 1], is needed")


def _masks(masks: NDArray[Any], path: Path) -> NDArray[Any]:
    if masks.ndim == 3:
        return masks
    raise InvalidData(f"{path.name}: masks of shape {masks.shape}; one class a pixel, [n, height, width], is needed")
