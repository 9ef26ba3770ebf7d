"""Records from a path, whatever lies there: what a hospital's ``records``, ``test`` and ``held_out`` may name.

a plan of kind   path                      read as
table            anything.parquet          Parquet (data/parquet.py)
table            anything else             CSV (data/rows.py)
image            a folder                  image-and-mask pairs (data/picture_sets.py)
image            .csv or .parquet          an index of image files (data/picture_sets.py)
image            anything else             NPZ, our own layout or MedMNIST's (data/images.py, data/medmnist.py)
"""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.data.images import read_images
from secure_fedhelp.data.loaded import Loaded, Progress, silent
from secure_fedhelp.data.medmnist import Part
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.tables import read_table
from secure_fedhelp.study.sections import DataSection


def load_records(
    path: Path,
    data: DataSection,
    part: Part = "open",
    progress: Progress = silent,
    reading: Reading = STANDARD,
) -> Loaded:
    """Load and check; ``part`` says which part of a file in MedMNIST's layout is meant, ``reading`` how this hospital's
    exports are written. Raises InvalidData's kinds."""
    if data.kind == "table":
        return read_table(path, data, progress, reading)
    if path.is_dir() or path.suffix.lower() in (".csv", ".parquet"):
        from secure_fedhelp.data.picture_sets import read_index, read_pairs

        return (read_pairs if path.is_dir() else read_index)(path, data, progress, reading)
    return read_images(path, data, part, progress, reading)
