"""A study file's data: of the catalog, or a researcher's own table or image set, dealt out by patient and by the seed.

What the plan makes public (classes, columns, centres and scales) comes from the study file or from the public part
alone, as it would in a deployment: nothing is fitted to records that a hospital would keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.catalog import StudyData, deal_out, image_set, make_study
from secure_fedhelp.research.dealing import Dealt
from secure_fedhelp.research.own_images import deal_pictures, read_pictures
from secure_fedhelp.research.own_table import deal_table, read_table_file
from secure_fedhelp.research.public_part import strangers, with_public
from secure_fedhelp.research.study_file import PublicPart, SitePartition, StudyFile, TeacherPart
from secure_fedhelp.research.teacher_part import lessons

#: Streams of random numbers of their own, beside those of the catalog's data sets.
_STREAM, _PUBLIC, _TEACHER = 1000, 1001, 1002
Read = TypeVar("Read")


class Files:
    """What was read of a study's own files last: many seeds deal the same records, and files may be large.

    Only for as long as it is known that they do not change.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._read: object = None

    def once(self, key: str, read: Callable[[], Read]) -> Read:
        """What ``read`` gave when it was last asked for under this key."""
        if self._key != key:
            self._key, self._read = None, None  # first: two large files must not be held at once
            self._read = read()
            self._key = key
        return self._read  # type: ignore[return-value]  # a key says what was read


def study_data(
    study: StudyFile, data_dir: Path | None, progress: Progress = silent, files: Files | None = None
) -> StudyData:
    """The study's data, of the catalog (from ``data_dir``) or the researcher's own, dealt out by its seed to the
    hospitals that take part. ``files`` keeps what is read for the next seed.

    Raises UnknownDataset, InvalidPartition, InvalidConfiguration, or InvalidData's kinds for what a file holds.
    """
    usual, part = _dealt(study, data_dir, progress, files or Files()), study.public or PublicPart()
    if unknown := [name for name in study.hospitals if name not in usual.hospitals]:
        known = ", ".join(usual.hospitals)
        raise InvalidConfiguration(f"{study.label} has no hospital {unknown[0]!r}", f"It has {known}.")
    taking_part = study.hospitals or tuple(usual.hospitals)
    rng = np.random.default_rng([study.seed, _PUBLIC])
    dealt = with_public(usual, part, taking_part, rng)
    if part.dataset is not None:
        inputs = strangers(dealt, part, image_set(part.dataset, data_dir, progress), rng)
    else:
        inputs = dealt.records.inputs[dealt.public]
    public = PublicSet.of(inputs, dealt.records.labels[dealt.public] if part.labelled else None)
    taught = lessons(dealt, study.teacher or TeacherPart(), np.random.default_rng([study.seed, _TEACHER]))
    hospitals = {name: dealt.hospitals[name] for name in taking_part}
    return make_study(replace(dealt, hospitals=hospitals), public, taught)


def _dealt(study: StudyFile, data_dir: Path | None, progress: Progress, files: Files) -> Dealt:
    data = study.data
    if data is None:
        return deal_out(str(study.dataset), data_dir, study.seed, study.partition, progress, study.hospitals)
    rng = np.random.default_rng([study.seed, _STREAM])
    column = study.partition.column if isinstance(study.partition, SitePartition) else None
    key = f"{data.model_dump_json()} {column}"
    if data.table:
        table = files.once(key, lambda: read_table_file(study, data, progress))
        return deal_table(study, data, table, rng, progress)
    return deal_pictures(study, data, files.once(key, lambda: read_pictures(study, data, progress)), rng)
