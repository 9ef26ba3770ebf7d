"""One-time knowledge acquisition: a foundation model is asked about the public set once, and its answers are kept.

Only public inputs go to the server. The type says so: :class:`FoundationClient` and :class:`TeacherCache` take a
:class:`~secure_fedhelp.data.records.PublicSet`, whose hash the signed plan fixes, and refuse anything else at run time;
a bare array or a hospital's records cannot be passed by mistake. The answers are then a function of public things and
cost no privacy. Whether this endpoint may be asked at all is the site policy's word, checked before anybody comes here.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import FoundationAnswerInvalid, FoundationRefused, StorageError
from secure_fedhelp.learning.inference_client import FoundationAnswer, FoundationClient, Manner, public_inputs
from secure_fedhelp.learning.inference_http import Token
from secure_fedhelp.learning.inference_protocol import first_complaint
from secure_fedhelp.learning.teacher_answers import Answers, Logits, NotLogits, require_logits
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import ARRAYS, STATUS, read_bounded
from secure_fedhelp.study.sections import Sha256, Strict

__all__ = ["FoundationAnswer", "FoundationClient", "Manner", "TeacherCache", "TeacherRecord", "Token"]


class TeacherRecord(Strict):
    """The sidecar of cached answers: what was asked, of whom, when, and the hash of the file that holds the logits."""

    public_sha256: Sha256
    url: str
    model: str
    model_version: str | None
    #: What the hospital said the server's numbers are; absent in records of 0.4.0, which took all for logits.
    answers: Answers | None = None
    #: SHA-256 of the whole ``.npy`` file, so that ``sha256sum`` checks it.
    logits_sha256: Sha256
    #: Unix seconds.
    asked_at: float = Field(ge=0)


class TeacherCache:
    """FedHelp's one-time knowledge acquisition: a public set is asked about once, and kept beside its record.

    ``FOLDER/teacher-HASH-MODEL.npy`` and ``.json``, HASH being the public set's; so a changed public set asks again and
    an unchanged one never does, even if the server is gone or has moved.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def answers(
        self,
        public: PublicSet,
        client: FoundationClient,
        answer_shape: int | tuple[int, ...],
        beside: tuple[str, ...] = (),
    ) -> Logits:
        """Logits float32 [records, *answer_shape], from the cache or by asking ``client``, which then happens once.

        ``beside`` names the study's other teacher. Raises FoundationRefused if this public set was already answered by
        a model that is neither, or in another manner; FoundationAnswerInvalid if the cached file is not what was
        stored, or is no logits (0.4.0 kept whatever came); StorageError if it cannot be written, and what the client
        raises.
        """
        inputs = public_inputs(public)
        shape = answer_shape if isinstance(answer_shape, tuple) else (answer_shape,)
        self._require_no_other(public.sha256, (client.model, *beside))
        record = self._record(public.sha256, client.model)
        if record is not None:
            self._require_same_manner(record, client)
            return self._stored(record, (len(inputs), *shape))
        answer = client.ask(public, shape)
        buffer = io.BytesIO()
        np.save(buffer, answer.logits, allow_pickle=False)
        data = buffer.getvalue()
        record = TeacherRecord(
            public_sha256=public.sha256,
            url=client.url,
            model=client.model,
            model_version=answer.model_version,
            answers=client.manner.answers,
            logits_sha256=sha256_hex(data),
            asked_at=self._clock(),
        )
        # The record is written last: without it the logits do not count, and a crash in between asks again.
        write_atomic(self._path(public.sha256, client.model, "npy"), data)
        record_path = self._path(public.sha256, client.model, "json")
        write_atomic(record_path, canonical_bytes(record.model_dump(mode="json")) + b"\n")
        return answer.logits

    def _path(self, public_sha256: str, model: str, suffix: str) -> Path:
        return self._folder / f"teacher-{public_sha256}-{model}.{suffix}"

    def _require_no_other(self, public_sha256: str, models: tuple[str, ...]) -> None:
        start = f"teacher-{public_sha256}-"
        asked = {path.name.removeprefix(start).removesuffix(".json") for path in self._folder.glob(f"{start}*.json")}
        if others := sorted(asked - set(models)):
            raise FoundationRefused(
                f"this public set was already answered by {others[0]!r}, not {models[0]!r}",
                "A study keeps its teachers. Use the first model's name, or start with an empty folder.",
            )

    def _require_same_manner(self, record: TeacherRecord, client: FoundationClient) -> None:
        """FoundationRefused if the kept answers were asked for as another version, or taken for other numbers."""
        kept, wanted = record.answers or "logits", client.manner.answers or "logits"
        path = self._path(record.public_sha256, record.model, "json")
        hint = "Delete the .npy and the .json to ask the foundation model again, or put hospital.toml back."
        if kept != wanted:
            raise FoundationRefused(f"{path}: kept as {kept}, and hospital.toml now says {wanted}", hint)
        if client.manner.version is not None and record.model_version not in (None, client.manner.version):
            version = str(record.model_version)[:64]
            raise FoundationRefused(
                f"{path}: answers of version {version!r}, and hospital.toml now says {client.manner.version!r}", hint
            )

    def _record(self, public_sha256: str, model: str) -> TeacherRecord | None:
        path = self._path(public_sha256, model, "json")
        try:
            record = TeacherRecord.model_validate_json(read_bounded(path, STATUS))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise _corrupted(path, first_complaint(error)) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        if record.public_sha256 != public_sha256:
            raise _corrupted(path, "it speaks of another public set")
        if record.model != model:
            raise _corrupted(path, "it speaks of another model")
        return record

    def _stored(self, record: TeacherRecord, shape: tuple[int, ...]) -> Logits:
        path = self._path(record.public_sha256, record.model, "npy")
        try:
            data = read_bounded(path, ARRAYS)
        except OSError as error:
            raise _corrupted(path, error.strerror or "cannot be read") from error
        if sha256_hex(data) != record.logits_sha256:
            raise _corrupted(path, "its hash differs from the recorded one")
        logits = None
        with suppress(ValueError, EOFError, MemoryError):  # a header may announce more than there is
            logits = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32 or not np.isfinite(logits).all():
            raise _corrupted(path, "not finite float32 logits")
        if logits.shape != shape:
            raise _corrupted(path, f"shape {logits.shape} where {shape} belongs")
        if record.answers != "probabilities":
            try:
                require_logits(logits, record.answers)
            except NotLogits as error:
                again = "Then delete the .npy and the .json to ask again."
                raise FoundationAnswerInvalid(
                    f"cached teacher answers {path}: {error}", f"{error.hint} {again}"
                ) from error
        return logits


def _corrupted(path: Path, what: str) -> FoundationAnswerInvalid:
    return FoundationAnswerInvalid(
        f"cached teacher answers {path}: {what}",
        "Restore both files from a backup, or delete the .npy and the .json to ask the foundation model again.",
    )
