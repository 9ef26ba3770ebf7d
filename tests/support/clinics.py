"""A table of patients at four clinics, of which one has records of one class only; and a study file of it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from secure_fedhelp.research.study_file import StudyFile, load_study

CLINICS = ("north", "south", "east", "west")
Row = dict[str, str]
QUICK = """
[model]
small = "mlp-4"
large = "mlp-8"
[learning]
warm_steps = 1
public_steps = 1
pupil_steps = 1
personal_steps = 1
"""
PARTS = "[parts]\npublic = 30\nreference = 40\ntest = 80\n"
SITES = '[partition]\nkind = "site"\ncolumn = "clinic"\nlarge = ["north"]\n'


def patients(count: int = 400, change: Callable[[int, Row], None] = lambda number, row: None) -> list[Row]:
    """One record each; a tenth of the ages is missing. All patients of the clinic ``west`` are well."""
    rng, rows = np.random.default_rng(0), list[Row]()
    for number in range(count):
        clinic, age = CLINICS[number % 4], float(rng.normal(60, 10))
        ill = age + rng.normal(0, 5) > 60 and clinic != "west"
        row = {
            "who": f"p{number}",
            "age": "?" if rng.random() < 0.1 else f"{age:.3f}",
            "grade": str(rng.choice(["low", "mid", "high"])),
            "follow_up": str(rng.integers(1, 900)),
            "clinic": clinic,
            "outcome": "ill" if ill else "well",
        }
        change(number, row)
        rows.append(row)
    return rows


def write(folder: Path, rows: list[Row]) -> None:
    with (folder / "own.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def study(
    folder: Path, data: str = "", top: str = "rounds = 1\n", parts: str = PARTS, partition: str = SITES, more: str = ""
) -> StudyFile:
    """A study file of ``own.csv``; the texts are more keys of ``[data]``, of the top, and other sections."""
    text = f'name = "own"\n{top}[data]\npath = "own.csv"\ntarget = "outcome"\npatient = "who"\n{data}'
    (folder / "study.toml").write_text(text + parts + partition + QUICK + more)
    return load_study(folder / "study.toml")
