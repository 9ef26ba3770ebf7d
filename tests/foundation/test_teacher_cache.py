"""The public set is asked about once; what is kept is what was answered, or nothing is used at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import FoundationAnswerInvalid, FoundationRefused, FoundationUnavailable, StorageError
from secure_fedhelp.learning.foundation import FoundationClient, TeacherCache
from secure_fedhelp.study.canonical import sha256_hex

INPUTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
PUBLIC = PublicSet.of(INPUTS, None)


class Server:
    """Counts questions; answers each input with (first value, minus first value)."""

    def __init__(self) -> None:
        self.questions = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/infer"):
            return httpx.Response(404)
        self.questions += 1
        asked = json.loads(request.content)["inputs"][0]
        first = np.asarray(asked["data"]).reshape(asked["shape"])[:, 0]
        data = np.stack([first, -first], axis=1)
        output = {"name": "out", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}
        model = request.url.path.split("/")[3]
        return httpx.Response(200, json={"model_name": model, "model_version": "3", "outputs": [output]})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def cache(tmp_path: Path) -> TeacherCache:
    return TeacherCache(tmp_path / "teacher", clock=lambda: 1_750_000_000.0)


def client_of(server: Server, model: str = "teacher", url: str = "http://teacher.example") -> FoundationClient:
    return FoundationClient(url, model, 5.0, httpx.MockTransport(server))


def files_of(tmp_path: Path, public: PublicSet = PUBLIC) -> tuple[Path, Path]:
    folder = tmp_path / "teacher"
    return folder / f"teacher-{public.sha256}-teacher.npy", folder / f"teacher-{public.sha256}-teacher.json"


def test_the_second_call_asks_nobody_even_if_the_server_moved(cache: TeacherCache, server: Server) -> None:
    first = cache.answers(PUBLIC, client_of(server), 2)
    second = cache.answers(PUBLIC, client_of(server, url="http://moved.example"), 2)
    assert first.tolist() == second.tolist() == np.stack([INPUTS[:, 0], -INPUTS[:, 0]], axis=1).tolist()
    assert second.dtype == np.float32
    assert server.questions == 1


def test_the_record_says_who_answered_what_and_when(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    logits, record = files_of(tmp_path)
    assert json.loads(record.read_bytes()) == {
        "answers": None,
        "asked_at": 1_750_000_000.0,
        "logits_sha256": sha256_hex(logits.read_bytes()),
        "model": "teacher",
        "model_version": "3",
        "public_sha256": PUBLIC.sha256,
        "url": "http://teacher.example",
    }


def test_a_changed_public_set_is_asked_about_and_the_old_answers_stay(cache: TeacherCache, server: Server) -> None:
    other = PublicSet.of(INPUTS + 1, None)
    cache.answers(PUBLIC, client_of(server), 2)
    assert cache.answers(other, client_of(server), 2)[0, 0] == INPUTS[0, 0] + 1
    cache.answers(PUBLIC, client_of(server), 2)
    assert server.questions == 2


def test_another_model_is_not_asked_about_the_same_public_set(cache: TeacherCache, server: Server) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    with pytest.raises(FoundationRefused, match="already answered by 'teacher', not 'other'"):
        cache.answers(PUBLIC, client_of(server, "other"), 2)
    assert server.questions == 1


def test_two_teachers_are_kept_apart_and_a_third_is_not_asked(cache: TeacherCache, server: Server) -> None:
    both = ("teacher", "other")
    for model in (*both, *both):
        cache.answers(PUBLIC, client_of(server, model), 2, beside=both)
    assert server.questions == 2
    with pytest.raises(FoundationRefused, match="already answered by 'other', not 'third'"):
        cache.answers(PUBLIC, client_of(server, "third"), 2, beside=("teacher",))
    with pytest.raises(FoundationRefused, match="already answered by 'other', not 'teacher'"):
        cache.answers(PUBLIC, client_of(server), 2)


def test_a_record_of_another_model_is_refused(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    for path in files_of(tmp_path):
        path.rename(path.with_name(path.name.replace("-teacher.", "-second.")))
    with pytest.raises(FoundationAnswerInvalid, match="another model"):
        cache.answers(PUBLIC, client_of(server, "second"), 2)


def test_changed_logits_are_noticed_and_not_asked_for_again(
    cache: TeacherCache, server: Server, tmp_path: Path
) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    logits, _ = files_of(tmp_path)
    data = bytearray(logits.read_bytes())
    data[-1] ^= 1
    logits.write_bytes(data)
    with pytest.raises(FoundationAnswerInvalid, match="hash differs") as caught:
        cache.answers(PUBLIC, client_of(server), 2)
    assert "delete the .npy and the .json" in caught.value.hint
    assert server.questions == 1


def forge(tmp_path: Path, data: bytes) -> None:
    """Put other bytes under a record that fits them: only the content can still give it away."""
    logits, record = files_of(tmp_path)
    logits.write_bytes(data)
    changed = json.loads(record.read_bytes()) | {"logits_sha256": sha256_hex(data)}
    record.write_text(json.dumps(changed))


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not numpy",
        npy(np.zeros((4, 2))),
        npy(np.zeros((4, 3), dtype=np.float32)),
        npy(np.full((4, 2), np.nan, dtype=np.float32)),
        npy(np.array([{"a": 1}], dtype=object), pickled=True),
    ],
    ids=["empty", "text", "float64", "shape", "nan", "pickle"],
)
def test_a_file_that_holds_no_fitting_logits_is_refused(
    cache: TeacherCache, server: Server, tmp_path: Path, data: bytes
) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    forge(tmp_path, data)
    with pytest.raises(FoundationAnswerInvalid):
        cache.answers(PUBLIC, client_of(server), 2)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"public_sha256": "x"}', "\x00"])
def test_a_broken_record_is_refused(cache: TeacherCache, server: Server, tmp_path: Path, content: str) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    files_of(tmp_path)[1].write_text(content)
    with pytest.raises(FoundationAnswerInvalid):
        cache.answers(PUBLIC, client_of(server), 2)


def test_a_record_of_another_public_set_is_refused(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    other = PublicSet.of(INPUTS + 1, None)
    cache.answers(PUBLIC, client_of(server), 2)
    for source, target in zip(files_of(tmp_path), files_of(tmp_path, other), strict=True):
        target.write_bytes(source.read_bytes())
    with pytest.raises(FoundationAnswerInvalid, match="another public set"):
        cache.answers(other, client_of(server), 2)


def test_logits_without_a_record_do_not_count(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    """A crash between the two files: nothing was promised yet, so the server is asked."""
    cache.answers(PUBLIC, client_of(server), 2)
    files_of(tmp_path)[1].unlink()
    cache.answers(PUBLIC, client_of(server), 2)
    assert server.questions == 2


def test_a_record_without_its_logits_is_refused(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    cache.answers(PUBLIC, client_of(server), 2)
    files_of(tmp_path)[0].unlink()
    with pytest.raises(FoundationAnswerInvalid, match="No such file"):
        cache.answers(PUBLIC, client_of(server), 2)


def test_an_unreadable_record_is_a_storage_error(cache: TeacherCache, server: Server, tmp_path: Path) -> None:
    files_of(tmp_path)[1].mkdir(parents=True)
    with pytest.raises(StorageError):
        cache.answers(PUBLIC, client_of(server), 2)


def test_a_failed_question_leaves_nothing_behind(cache: TeacherCache, tmp_path: Path) -> None:
    client = FoundationClient(
        "http://teacher.example",
        "teacher",
        5.0,
        httpx.MockTransport(lambda _: httpx.Response(503)),
        sleep=lambda _: None,
    )
    with pytest.raises(FoundationUnavailable):
        cache.answers(PUBLIC, client, 2)
    assert not (tmp_path / "teacher").exists()


def test_records_are_refused_before_the_cache_is_looked_at(cache: TeacherCache, server: Server) -> None:
    with pytest.raises(FoundationRefused, match="never do|not a public set"):
        cache.answers(INPUTS, client_of(server), 2)  # type: ignore[arg-type]
