"""The folders of a demonstration study: consortium, members, data, plan. The same code that real consortia run.

What differs from real life is only who does it: here one person plays the consortium's administrator and every
hospital, so every private key, and every key file that opens one, lies under one run directory.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from secure_fedhelp.coordinator.setup import init_coordinator
from secure_fedhelp.data.images import write_images, write_public
from secure_fedhelp.data.reading import STANDARD
from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.identity.authority import Authority
from secure_fedhelp.identity.lock import create_lock
from secure_fedhelp.identity.private_files import read_public
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.research.catalog import Rows, StudyData
from secure_fedhelp.research.teacher import Teacher, teacher_of
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.methods import Imported
from secure_fedhelp.study.plan import StudyPlan

_VALID_DAYS = 30
#: By what names hospitals ask a study's teachers.
TEACHERS = ("teacher", "second")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run directory."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.toml"

    @property
    def consortium(self) -> Path:
        return self.root / "consortium"

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def foundation(self) -> Path:
        return self.root / "foundation"

    @property
    def teacher(self) -> Path:
        return self.teachers[0]

    @property
    def teachers(self) -> tuple[Path, ...]:
        """Where a study's teachers are kept; most studies have one."""
        return tuple(self.foundation / f"{name}.npz" for name in TEACHERS)

    @property
    def unlock(self) -> Path:
        return self.root / "unlock"

    def key_file(self, name: str) -> SecretSource:
        """The key file that opens one party's folder: outside of it, as in real life."""
        return SecretSource(key_file=self.unlock / f"{name}.key")

    def hospital(self, name: str) -> HospitalFolder:
        return HospitalFolder(self.root / "hospitals" / name)


def create_run_folder(root: Path, overwrite: bool) -> RunFolder:
    """An empty run directory. Raises InvalidConfiguration if it holds something and ``overwrite`` is not set."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        # Only a folder that an earlier run made is ever deleted: a mistyped --out must not cost somebody's files.
        ours = (root / "plan.toml").exists() and (root / "hospitals").is_dir()
        if not overwrite or not ours:
            hint = "Choose another --out" + (", or add --overwrite to replace the earlier run." if ours else ".")
            raise InvalidConfiguration(f"{root} already exists and is not empty", hint)
        lock = lock_run(root)
        for child in root.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        os.close(lock)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {root}: {error.strerror}") from error
    return RunFolder(root)


def lock_run(root: Path) -> int:
    """A lock on the run directory for as long as the descriptor is open; InvalidConfiguration if a run holds it.

    Without it a second demonstration with --overwrite would delete the folder of one that is running.
    """
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        hint = "Wait until it has ended, or choose another --out."
        raise InvalidConfiguration(f"{root} is in use by another demonstration", hint) from error
    except OSError as error:
        raise StorageError(f"cannot open {root}: {error.strerror}") from error
    return descriptor


def write_plan(path: Path, plan: StudyPlan) -> None:
    """The plan as TOML; reading it back gives the same plan and so the same hash."""
    values = plan.model_dump(mode="json", exclude_none=True)
    write_atomic(path, tomli_w.dumps(values).encode())


def create_consortium(run: RunFolder, plan: StudyPlan, now: float) -> None:
    """A certificate authority, and for every party its keys, request and certificate."""
    unlock = create_lock(run.consortium, run.key_file("authority"))
    authority = Authority.create(run.consortium, plan.consortium, now, _VALID_DAYS, unlock)
    request = init_coordinator(run.coordinator, plan.consortium, "coordinator", run.key_file("coordinator"))
    names = ("localhost", "127.0.0.1")
    certificate = authority.sign(read_public(request), "coordinator", "coordinator", now, _VALID_DAYS, dns_names=names)
    _hand_over(run, run.coordinator, certificate)
    for hospital in plan.hospitals:
        folder = run.hospital(hospital.name)
        request = init_hospital(folder.root, plan.consortium, hospital.name, run.key_file(hospital.name))
        certificate = authority.sign(read_public(request), "hospital", hospital.name, now, _VALID_DAYS)
        _hand_over(run, folder.keys, certificate)


def _hand_over(run: RunFolder, keys: Path, certificate: bytes) -> None:
    write_atomic(keys / "tls.crt", certificate)
    for file in ("ca.crt", "revoked.crl"):
        write_atomic(keys / file, read_public(run.consortium / file))


def write_hospitals(
    run: RunFolder,
    plan: StudyPlan,
    data: StudyData,
    foundation_urls: Sequence[str],
    noise_seed: str | None = None,
    rivals: bool = True,
) -> None:
    """Each hospital's records, public set, configuration and policy, in its own folder.

    They ask a foundation model at each of ``foundation_urls``, by the names of :data:`TEACHERS`. ``noise_seed`` makes
    the privacy noise come again, for research; without ``rivals`` no local baselines are trained.
    """
    for name in data.hospitals:
        folder = run.hospital(name)
        private, test = _write_records(folder.root / "data", name, data, plan)
        write_public(folder.root / "public" / "public.npz", data.public)
        config: dict[str, Any] = {
            "name": name,
            "consortium": plan.consortium,
            "records": f"data/{private}",
            "public": "public/public.npz",
            "test": f"data/{test}",
        }
        if data.rows and data.about.reading != STANDARD:  # the text is the source's, between commas
            written = data.about.reading.model_copy(update={"separator": STANDARD.separator})
            config["reading"] = written.model_dump(mode="json", exclude_none=True)
        if len(foundation_urls) == 1:
            config["foundation_url"] = foundation_urls[0]
        elif foundation_urls:
            config["foundations"] = [{"url": u, "model": m} for u, m in zip(foundation_urls, TEACHERS, strict=True)]
        if noise_seed is not None:
            config["research_noise_seed"] = noise_seed
        if not rivals:
            config["research_rivals"] = False
        write_atomic(folder.root / "hospital.toml", tomli_w.dumps(config).encode())
        privacy = plan.privacy_of(name)
        policy = {
            "largest_epsilon": privacy.epsilon,
            "largest_delta": privacy.delta,
            "patient_columns": [plan.data.patient_id],
            "smallest_cohort": plan.aggregation.minimum_cohort,
            "channels_allowed": [channel.name for channel in plan.channels],
            "smallest_coalition": min(1, plan.coalition[1]),
            "foundation_endpoints": list(foundation_urls),
            "metrics": "research",
            # Whoever simulates a study of their own code runs that code anyway, so it is named as a policy must.
            "methods_allowed": [plan.method.path if isinstance(plan.method, Imported) else plan.method.name],
            "models_allowed": sorted({plan.model.small, plan.model.large}),
        }
        write_atomic(folder.root / "policy.toml", tomli_w.dumps(policy).encode())


def _write_records(folder: Path, name: str, data: StudyData, plan: StudyPlan) -> tuple[str, str]:
    """A hospital's records and the test part, as files; a table with the text that its source has."""
    if plan.data.kind == "table":
        write_rows(folder / "records.csv", data.rows[name])
        write_rows(folder / "test.csv", data.test_rows)
        return "records.csv", "test.csv"
    write_images(folder / "records.npz", data.hospitals[name][1])
    write_images(folder / "test.npz", data.test)
    return "records.npz", "test.npz"


def write_rows(path: Path, rows: Rows) -> None:
    """Rows of text as a CSV, value for value: what is missing stays missing, and every spelling is kept."""
    text = io.StringIO()
    # Both characters of a line's end are known to the writer then, so that a value with either of them is quoted.
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode(), mode=0o600)


def write_teachers(run: RunFolder, plan: StudyPlan, references: Sequence[Records]) -> tuple[Teacher, ...]:
    """Fit a study's foundation models, each on records that belong to no hospital, and keep them for their servers.

    Without such records there is no teacher, and no file.
    """
    fitted = tuple(teacher_of(plan, reference) for reference in references)
    if fitted:
        run.foundation.mkdir(parents=True, exist_ok=True)
    for teacher, path in zip(fitted, run.teachers, strict=False):
        teacher.save(path)
    return fitted
