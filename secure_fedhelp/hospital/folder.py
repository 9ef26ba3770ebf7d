"""A hospital's folder: where everything of one member lies, and the configuration file the hospital owns.

hospital.toml   configuration        policy.toml     the site policy
unlock.json     the lock: what the private keys and the state are sealed under (identity/lock.py); the passphrase or key
                file that opens it is not in this folder
keys/           tls.key tls.csr tls.crt ca.crt signing.key sealing.key (private keys: sealed)
ledger.jsonl    every release paid for; beside it, sealed, ledger.jsonl.patients: whose data each entry is about
state/          checkpoint, spool, study keys (sealed)
models/         what the hospital keeps: shared and personal model, in clear like the records, for its own programs
status.json     what the process is doing, for whoever watches; metrics.jsonl and result.json stay here too
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from secure_fedhelp.data.reading import Reading
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.study.plan import explain, read_toml
from secure_fedhelp.study.policy import SitePolicy, load_policy
from secure_fedhelp.study.reading import SETTINGS
from secure_fedhelp.study.sections import Name, Strict


class Foundation(Strict):
    """A foundation model on an Open Inference Protocol v2 server; asked once, with public inputs only."""

    url: str
    model: str = "teacher"
    timeout_seconds: float = Field(default=30.0, gt=0)
    #: Of several versions that the server has, the one to ask; absent, the server chooses.
    version: str | None = Field(default=None, min_length=1)
    #: Of several outputs that the model has, the one to take; absent, its only one or the one called ``logits``.
    output: str | None = Field(default=None, min_length=1, max_length=256)
    #: What the numbers are. Softmax sees no difference between logits and the logarithm of probabilities, so this says
    #: how a server speaks and changes no lesson: each hospital says it of its own. Absent: logits, checked.
    answers: Literal["logits", "probabilities"] | None = None
    #: Records in one question, at most; absent, what fits into a question.
    largest_batch: int | None = Field(default=None, ge=1)
    #: PEM file of the authority that vouches for the server: only it is trusted then. Absent: the usual ones.
    ca_file: str | None = None
    #: File with a bearer token, for its owner's eyes only (mode 0600); it is sent over TLS, or on this machine.
    token_file: str | None = None


class HospitalConfig(Strict):
    """``hospital.toml``. Paths are relative to the folder."""

    name: Name
    consortium: Name
    #: The private records: a table (CSV, Parquet) with the plan's columns, or images (NPZ, a folder of pairs, an index
    #: of files). docs/data.md has every form.
    records: str = "data/records.csv"
    #: The plan's public set (NPZ); its hash is fixed by the plan.
    public: str = "public/public.npz"
    #: The privacy ledger. Studies on the same patients must share one ledger, so that their budgets add up: point the
    #: folders of all studies at the same file.
    ledger: str = "ledger.jsonl"
    #: Records set aside for evaluation; optional, read here and nowhere else.
    test: str | None = None
    #: Private records that nobody trains on, for plans with ``[metrics]``: the study's model is measured on them.
    held_out: str | None = None
    #: How these files are written: separators, decimal comma, spellings of one patient.
    reading: Reading = Reading()
    #: An Open Inference Protocol v2 server; asked once, with public inputs only. Absent: no teacher.
    foundation_url: str | None = None
    foundation_model: str = "teacher"
    foundation_timeout_seconds: float = Field(default=30.0, gt=0)
    #: In place of those three: one or two models, as ``[[foundations]]``, with what else there is to say of each. Of
    #: two the student learns from both.
    foundations: tuple[Foundation, ...] = Field(default=(), max_length=2)
    #: Research mode only: privacy noise from this seed, so that a run can be made again. It protects nobody, and the
    #: ledger says so.
    research_noise_seed: str | None = None
    #: Research mode only: also train what this hospital could have had alone, for comparison.
    research_rivals: bool = True

    @model_validator(mode="after")
    def _teachers_are_told_apart(self) -> HospitalConfig:
        if self.foundations and self.foundation_url is not None:
            raise ValueError("give foundation_url or [[foundations]], not both")
        if len({f.model for f in self.foundations}) != len(self.foundations):
            raise ValueError("two foundations of one model name: their cached answers could not be told apart")
        return self

    @property
    def teachers(self) -> tuple[Foundation, ...]:
        """The foundation models to ask; none, one or two."""
        if self.foundation_url is None:
            return self.foundations
        only = Foundation(
            url=self.foundation_url, model=self.foundation_model, timeout_seconds=self.foundation_timeout_seconds
        )
        return (only,)

    @property
    def foundation_urls(self) -> tuple[str, ...]:
        """What a site policy has to allow."""
        return tuple(teacher.url for teacher in self.teachers)


@dataclass(frozen=True)
class HospitalFolder:
    """The paths inside one hospital's folder."""

    root: Path

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def config(self) -> HospitalConfig:
        """The checked configuration; InvalidConfiguration names every wrong key."""
        path = self.root / "hospital.toml"
        values = read_toml(path, InvalidConfiguration, SETTINGS)
        try:
            return HospitalConfig.model_validate(values)
        except ValidationError as error:
            raise InvalidConfiguration(f"{path}: {explain(error)}") from error

    def policy(self) -> SitePolicy:
        """The checked site policy; InvalidPolicy if it is missing or malformed: no policy, no study."""
        return load_policy(self.root / "policy.toml")
