"""Files in the forms of the catalog's data sets, small and made up, so that a test needs no download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from secure_fedhelp.research.catalog import HEART_SITES, StudyData

_HEART_CATEGORIES = {1: (0, 1), 2: (1, 2, 3, 4), 5: (0, 1), 6: (0, 1, 2), 8: (0, 1), 10: (1, 2, 3), 12: (3, 6, 7)}


def write_heart(folder: Path, patients: int = 120) -> Path:
    """Four sites of so many patients; a third is ill in the first, two thirds in the last."""
    rng = np.random.default_rng(5)
    for number, file in enumerate(HEART_SITES.values()):
        lines = []
        for _ in range(patients):
            ill = int(rng.random() < (3 + number) / 9)
            cells = [
                str(rng.choice(_HEART_CATEGORIES[place]))
                if place in _HEART_CATEGORIES
                else f"{rng.normal(50 + 10 * ill + 5 * number, 10):.1f}"
                for place in range(13)
            ]
            lines.append(",".join([*cells, str(ill)]))
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_medmnist(
    folder: Path, file: str = "breastmnist.npz", train: int = 450, seed: int = 6, side: int = 28
) -> Path:
    """Grey images [n, side, side] in MedMNIST's layout, brighter in the second class."""
    rng, arrays = np.random.default_rng(seed), {}
    for part, count in (("train", train), ("val", 20), ("test", 40)):
        labels = rng.random(count) < 0.6
        images = rng.normal(90 + 60 * labels[:, None, None], 30, (count, 28, 28)).clip(0, 255)
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels[:, None].astype(np.uint8)}
    np.savez(folder / file, **arrays)
    return folder


def write_retina(folder: Path, images: int = 24) -> Path:
    """So many photographs of 64 by 64 pixels at each of the four centres; both eyes of each child at the third."""
    rng = np.random.default_rng(7)
    vessels = rng.random((4 * images, 64, 64)) < 0.1
    names = [
        f"Image_{n // 2:02d}{'LR'[n % 2]}.jpg" if c == 2 else f"{n:02d}.png" for c in range(4) for n in range(images)
    ]
    photographs = rng.normal(120, 20, (4 * images, 64, 64, 3)) - 60 * vessels[..., None]
    np.savez(
        folder / "retina_vessels_256.npz",
        images=photographs.clip(0, 255).astype(np.uint8),
        vessel_fraction=(255 * vessels).astype(np.uint8),
        centre=np.repeat(np.arange(4), images),
        names=np.asarray(names),
    )
    return folder


def write_catalog(folder: Path) -> Path:
    """All of them."""
    write_medmnist(write_medmnist(folder), "pneumoniamnist.npz", 800, 8)
    return write_retina(write_heart(folder))


def split_hash(data: StudyData) -> str:
    """Sixteen digits over everything that a study deals out: who is where, with which values, in which order."""
    found = hashlib.sha256(data.public.sha256.encode())
    (reference,) = data.references
    parts = {"reference": reference, "test": data.test} | {
        f"{name} {tier}": records for name, (tier, records) in data.hospitals.items()
    }
    for name, records in parts.items():
        found.update(name.encode() + b"\n" + "\n".join(records.patients).encode())
        found.update(records.inputs.astype("<f4").tobytes() + records.labels.astype("<i8").tobytes())
    return found.hexdigest()[:16]
