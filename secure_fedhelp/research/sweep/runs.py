"""What a sweep runs: one frozen value a run, whose identity is everything that its result depends on.

A run that was done is found again by that identity, whatever else is asked for beside it, so a sweep that was killed
goes on and one that is widened does only what is new.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from secure_fedhelp import __version__
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.learning.imported import source_sha256
from secure_fedhelp.research.plans import StudyDefaults, constants_sha256
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.data_file import data_sha256
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.methods import BUILT_IN, Ditto, FedAvg, FedHelp, FedProx, Imported, PfedNet, ProxyFl, Prr

#: What a hospital could have without the study, by name, and what it is (learning/baselines.py).
RIVALS: dict[str, str] = {
    "local-dp": "own records alone, same epsilon",
    "local-dp-warm": "own records alone, same epsilon, public warm start",
    "local": "own records alone, no noise",
    "local-warm": "own records alone, no noise, public warm start",
    "public": "public set and teacher alone",
    "public-labels": "public set alone, without a teacher",
    "teacher": "the teacher itself, asked about every patient",
    "pooled": "all records in one place, no noise: the ceiling",
}
#: Rivals that are one model for all hospitals, so that no hospital's own records decide whether they can be had.
COMMON_RIVALS = frozenset({"public", "public-labels", "teacher", "pooled"})
#: Raised with each change of what the code makes of a contender: a result of the code before has another name then, and
#: is not taken for one of today's. (Constants of the plans and versions of packages are in a run's name anyway.)
REVISIONS: dict[str, int] = {"local": 1}
#: The same of data of one's own, in what is read of a table and in which sites are left out. 1: listing a column
#: changes that column and drops no other, and sites that do not take part are in no part.
OWN_DATA_REVISION = 1
#: Rivals that spend no epsilon: one run serves all budgets.
FREE = frozenset({"local", "local-warm", "public", "public-labels", "teacher", "pooled"})
_PACKAGES = ("torch", "monai", "opacus", "dp-accounting", "tenseal", "numpy", "scikit-learn")
_OPTIONS = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "ditto": Ditto,
    "fedhelp": FedHelp,
    "pfednet": PfedNet,
    "proxyfl": ProxyFl,
    "prr": Prr,
}


@dataclass(frozen=True)
class Run:
    """One run. ``epsilon`` infinity means without differential privacy, which only plain runs can be."""

    #: The study file with this run's seed and method in it.
    study: StudyFile
    #: A method, a variant of the study file, or one of :data:`RIVALS`.
    contender: str
    epsilon: float
    #: Encrypted, masked and over the deployed coordinator; else in plain, and every result says so.
    encrypted: bool
    data_dir: Path | None = None
    #: Of the study's own data file (sweep/data_file.py); None for a data set of the catalog.
    data_sha256: str | None = None

    @property
    def id(self) -> str:
        """Sixteen digits of a hash over all that the result depends on. Of data it is the contents and not the place:
        of one's own by their hash, of the catalog by name; of code of one's own it is the module's file."""
        # Sections that are absent are left out: one that a later version adds renames no run that does not use it.
        study = self.study.model_dump(mode="json", exclude_none=True)
        if "data" in study:
            study["data"] |= {"path": self.data_sha256}
            for name in ("columns_only", "exclude"):  # as sections: where they say nothing they rename no run
                if not study["data"][name]:
                    del study["data"][name]
        about = {
            "constants": constants_sha256(self.study),
            "contender": self.contender,
            "encrypted": self.encrypted,
            "epsilon": repr(self.epsilon),
            "study": study,
            "versions": self.versions,
        }
        if self.contender in REVISIONS:
            about["revision"] = REVISIONS[self.contender]
        if self.study.data is not None and (self.study.data.table or self.study.hospitals):
            about["own_data"] = OWN_DATA_REVISION
        code = {path: source_sha256(path) for path in sorted(self._imported)}
        return digest(about | ({"code": code} if code else {}))[:16]

    @property
    def versions(self) -> str:
        """Of what computes the result; image files are read by packages of their own."""
        files = self.study.data is not None and self.study.data.files
        return versions() + (_versions_of_readers() if files else "")

    @property
    def _imported(self) -> set[str]:
        """Paths of the method and the networks that are code of one's own."""
        study = self.study
        networks = {study.model.small, study.model.large} if study.model else set()
        methods = {study.method.path} if isinstance(study.method, Imported) else set()
        return methods | {name for name in networks if ":" in name}

    @property
    def dealt_by(self) -> str:
        """What of the study file says which patients and networks its hospitals have."""
        return self.study.model_dump_json(include=DEALT_BY | {"model"})

    @property
    def encryption(self) -> str:
        """The label of every result."""
        if self.contender in RIVALS:
            return "not needed"
        return f"ckks, masks {self.study.masks}" if self.encrypted else "none"


#: All of a study file, but for the seed, that its patients are dealt by.
DEALT_BY = {"dataset", "data", "parts", "partition", "public", "teacher", "hospitals", "smallest_site"}


def expand(
    study: StudyFile,
    contenders: Sequence[str],
    epsilons: Sequence[float],
    seeds: int,
    encrypted: bool,
    data_dir: Path | None,
) -> list[Run]:
    """Every combination once, seeds outermost, so that a sweep that ends early has whole seeds.

    Seeds go up from the study file's. Raises InvalidConfiguration for an unknown contender, for a variant with a
    rival's name, and for a method without privacy that is to be encrypted; InvalidData if the study's own
    data file cannot be read.
    """
    if not (contenders and epsilons and seeds > 0):
        raise InvalidConfiguration(
            "a sweep needs a method, an epsilon and a seed", "Use --methods, --epsilon and --seeds."
        )
    known = dict.fromkeys((own_method(study), *BUILT_IN, *study.variants, *RIVALS))
    if unknown := [name for name in contenders if name not in known]:
        hint = f"Known: {', '.join(known)}. A method of your own is `imported`, or a variant of the study file."
        raise InvalidConfiguration(f"no method, variant or rival is called {unknown[0]!r}", hint)
    if clash := [name for name in study.variants if name in RIVALS]:
        reason = f"[variants.{clash[0]}] has the name of a rival, which would be run in its place"
        raise InvalidConfiguration(reason, "Give the variant another name.")
    if encrypted and math.inf in epsilons and any(name not in RIVALS for name in contenders):
        raise InvalidConfiguration(
            "without privacy nothing may leave a hospital, so epsilon inf cannot be simulated as deployed",
            "Give --no-encryption, which runs the methods in plain and says so in every result.",
        )
    runs: dict[str, Run] = {}
    sha256 = data_sha256(study)
    for seed in range(study.seed, study.seed + seeds):
        for epsilon in epsilons:
            for name in contenders:
                chosen = math.inf if name in FREE else epsilon
                locked = encrypted and name not in RIVALS
                made = Run(_of(study, name, seed), name, chosen, locked, data_dir, sha256)
                runs.setdefault(made.id, made)
    return list(runs.values())


def own_method(study: StudyFile) -> str:
    """The method that the study file names, or else FedHelp."""
    return (study.method or FedHelp()).name


def usual_epsilon(study: StudyFile) -> float:
    """The study file's budget, or else that of all data sets."""
    return study.epsilon or StudyDefaults.epsilon


def _of(study: StudyFile, contender: str, seed: int) -> StudyFile:
    """The study file of one contender and seed: a variant's values in place of the file's, and no variants left."""
    changes: dict[str, Any] = {"seed": seed, "variants": {}, "epsilon": None}
    if contender in study.variants:
        variant = study.variants[contender]
        changes |= {key: value for key, value in variant if value is not None}
        changes |= {"learning": study.learning | variant.learning, "hospitals": variant.hospitals or study.hospitals}
        if variant.method is None and contender in _OPTIONS:  # a variant called fedavg is of FedAvg
            changes["method"] = _OPTIONS[contender]()
    elif contender in RIVALS:
        changes["method"] = None  # or its noise would leave room for answers that only that method gives
    elif contender in _OPTIONS and contender != own_method(study):
        changes["method"] = _OPTIONS[contender]()
    return study.model_copy(update=changes)


@cache
def versions() -> str:
    """What computes results: another release of any of these may give others."""
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES) + f", secure-fedhelp {__version__}"


@cache
def _versions_of_readers() -> str:
    """Of the readers of image files, of which the last three are an extra."""
    found = {name: _version(name) for name in ("pillow", "pypng", "nibabel", "pydicom", "imagecodecs")}
    return "".join(f", {name} {found[name]}" for name in found if found[name])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shown_epsilon(epsilon: float) -> str:
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"


def parse_epsilons(text: str) -> list[float]:
    """``1,2,inf`` as numbers; InvalidConfiguration for anything else."""
    return [_epsilon(part.strip()) for part in text.split(",") if part.strip()]


def _epsilon(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise InvalidConfiguration(f"epsilon {text!r} is no number above 0", "For example --epsilon 1,3,inf.")
    return value


def names(text: str) -> list[str]:
    """A list as the command line has it, each name once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def seeds_of(runs: Iterable[Run]) -> list[int]:
    return sorted({run.study.seed for run in runs})
