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
from secure_fedhelp.learning.inference_client import FoundationAnswer, FoundationClient, Logits, public_inputs
from secure_fedhelp.learning.inference_protocol import first_complaint
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.sections import Sha256, Strict

__all__ = ["FoundationAnswer", "FoundationClient", "TeacherCache", "TeacherRecord"]


class TeacherRecord(Strict):
    """The sidecar of cached answers: what was asked, of whom, when, and the hash of the file that holds the logits."""

    public_sha256: Sha256
    url: str
    model: str
    model_version: str | None
    #: SHA-256 of the whole ``.npy`` file, so that ``sha256sum`` checks it.
    logits_sha256: Sha256
    #: Unix seconds.
    asked_at: float = Field(ge=0)


class TeacherCache:
    """FedHelp's one-time knowledge acquisition: a public set is asked about once, and kept beside its record.

    ``FOLDER/teacher-HASH.npy`` and ``.json``, HASH being the public set's; so a changed public set asks again and an
    unchanged one never does, even if the server is gone or has moved.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def answers(self, public: PublicSet, client: FoundationClient, classes: int) -> Logits:
        """Logits float32 [records, classes], from the cache or by asking ``client``, which then happens once.

        Raises FoundationRefused if this public set was already answered by another model, FoundationAnswerInvalid if
        the cached file is not what was stored, StorageError if it cannot be written, and what the client raises.
        """
        inputs = public_inputs(public)
        record = self._record(public.sha256)
        if record is not None:
            if record.model != client.model:
                raise FoundationRefused(
                    f"this public set was already answered by {record.model!r}, not {client.model!r}",
                    "One study has one teacher. Use the first model's name, or start with an empty folder.",
                )
            return self._stored(record, (len(inputs), classes))
        answer = client.ask(public, classes)
        buffer = io.BytesIO()
        np.save(buffer, answer.logits, allow_pickle=False)
        data = buffer.getvalue()
        record = TeacherRecord(
            public_sha256=public.sha256,
            url=client.url,
            model=client.model,
            model_version=answer.model_version,
            logits_sha256=sha256_hex(data),
            asked_at=self._clock(),
        )
        # The record is written last: without it the logits do not count, and a crash in between asks again.
        write_atomic(self._logits_path(public.sha256), data)
        write_atomic(self._record_path(public.sha256), canonical_bytes(record.model_dump(mode="json")) + b"\n")
        return answer.logits

    def _logits_path(self, public_sha256: str) -> Path:
        return self._folder / f"teacher-{public_sha256}.npy"

    def _record_path(self, public_sha256: str) -> Path:
        return self._folder / f"teacher-{public_sha256}.json"

    def _record(self, public_sha256: str) -> TeacherRecord | None:
        path = self._record_path(public_sha256)
        try:
            record = TeacherRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise _corrupted(path, first_complaint(error)) from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        if record.public_sha256 != public_sha256:
            raise _corrupted(path, "it speaks of another public set")
        return record

    def _stored(self, record: TeacherRecord, shape: tuple[int, int]) -> Logits:
        path = self._logits_path(record.public_sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _corrupted(path, error.strerror or "cannot be read") from error
        if sha256_hex(data) != record.logits_sha256:
            raise _corrupted(path, "its hash differs from the recorded one")
        logits = None
        with suppress(ValueError, EOFError):
            logits = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32 or not np.isfinite(logits).all():
            raise _corrupted(path, "not finite float32 logits")
        if logits.shape != shape:
            raise _corrupted(path, f"shape {logits.shape} where {shape} belongs")
        return logits


def _corrupted(path: Path, what: str) -> FoundationAnswerInvalid:
    return FoundationAnswerInvalid(
        f"cached teacher answers {path}: {what}",
        "Restore both files from a backup, or delete the .npy and the .json to ask the foundation model again.",
    )
