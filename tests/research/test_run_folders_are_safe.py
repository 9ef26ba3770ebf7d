"""A run directory is made, replaced and locked without ever costing somebody's files or a running study."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.research.demo_setup import create_run_folder, lock_run


def earlier_run(folder: Path) -> Path:
    (folder / "hospitals" / "alpha").mkdir(parents=True)
    (folder / "plan.toml").write_text("", encoding="utf-8")
    return folder


def test_an_earlier_run_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "run")
    with pytest.raises(InvalidConfiguration) as caught:
        create_run_folder(folder, overwrite=False)
    assert "--overwrite" in caught.value.hint
    assert (folder / "plan.toml").exists()
    create_run_folder(folder, overwrite=True)
    assert list(folder.iterdir()) == []


def test_a_run_in_progress_is_never_replaced(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "run")
    lock = lock_run(folder)
    try:
        with pytest.raises(InvalidConfiguration, match="in use"):
            create_run_folder(folder, overwrite=True)
        assert (folder / "hospitals" / "alpha").exists()
    finally:
        os.close(lock)
    create_run_folder(folder, overwrite=True)


def test_somebody_elses_files_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for target in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(InvalidConfiguration):
            create_run_folder(target, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_place_that_cannot_be_used_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        create_run_folder(tmp_path / "file" / "run", overwrite=False)
    with pytest.raises(StorageError):
        lock_run(tmp_path / "nowhere")
