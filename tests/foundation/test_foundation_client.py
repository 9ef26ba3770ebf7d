"""A foundation server is a stranger: down, slow or lying, it never gets past the client and sees no private input."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.errors import (
    FoundationAnswerInvalid,
    FoundationRefused,
    FoundationUnavailable,
    InvalidConfiguration,
)
from secure_fedhelp.learning import inference_client
from secure_fedhelp.learning.foundation import FoundationClient
from secure_fedhelp.learning.inference_protocol import Tensor, tensor, values_of

INPUTS = np.arange(15, dtype=np.float32).reshape(5, 3) / 7
PUBLIC = PublicSet.of(INPUTS, None)
METADATA = {
    "name": "teacher",
    "versions": ["7"],
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2]}],
}
Handler = Callable[[httpx.Request], httpx.Response]


def answer_of(request: httpx.Request) -> dict[str, object]:
    """What an honest model says: the sum of each input, and its opposite."""
    given_tensor = json.loads(request.content)["inputs"][0]
    values = np.asarray(given_tensor["data"], dtype=np.float32).reshape(given_tensor["shape"])
    sums = values.reshape(len(values), -1).sum(axis=1)
    data = np.stack([sums, -sums], axis=1)
    output = {"name": "scores", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}
    return {"model_name": "teacher", "model_version": "7", "outputs": [output]}


def client_of(
    infer: Handler | None = None,
    metadata: Handler | None = None,
    ready: Handler | None = None,
    sleeps: list[float] | None = None,
    **options: object,
) -> FoundationClient:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v2/health/ready":
            return ready(request) if ready else httpx.Response(200, json={"ready": True})
        if request.url.path == "/v2/models/teacher":
            return metadata(request) if metadata else httpx.Response(200, json=METADATA)
        assert request.url.path == "/v2/models/teacher/infer"
        return infer(request) if infer else httpx.Response(200, json=answer_of(request))

    log = [] if sleeps is None else sleeps
    return FoundationClient(
        "http://teacher.example/", "teacher", 5.0, httpx.MockTransport(handle), sleep=log.append, **options
    )


def expected(inputs: np.ndarray) -> np.ndarray:
    sums = inputs.reshape(len(inputs), -1).sum(axis=1)
    return np.stack([sums, -sums], axis=1)


def test_an_honest_answer_comes_back_exactly_with_its_version() -> None:
    answer = client_of().ask(PUBLIC, 2)
    assert answer.logits.dtype == np.float32
    assert answer.logits.tolist() == expected(INPUTS).tolist()
    assert answer.model_version == "7"


def test_the_request_is_the_protocols_json() -> None:
    seen: list[httpx.Request] = []

    def infer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=answer_of(request))

    client_of(infer).logits(PUBLIC, 2)
    assert json.loads(seen[0].content) == {
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [5, 3], "data": INPUTS.ravel().tolist()}],
        "outputs": [{"name": "scores"}],
    }
    assert seen[0].headers["content-type"] == "application/json"


def test_batches_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_client, "VALUES_A_REQUEST", 6)
    shapes: list[list[int]] = []

    def infer(request: httpx.Request) -> httpx.Response:
        shapes.append(json.loads(request.content)["inputs"][0]["shape"])
        return httpx.Response(200, json=answer_of(request))

    assert client_of(infer).logits(PUBLIC, 2).tolist() == expected(INPUTS).tolist()
    assert shapes == [[2, 3], [2, 3], [1, 3], [1, 3]]  # the last asks about the first record again


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_health_and_metadata_is_served_with_the_default_name(status: int) -> None:
    names: list[str] = []

    def infer(request: httpx.Request) -> httpx.Response:
        names.append(json.loads(request.content)["inputs"][0]["name"])
        return httpx.Response(200, json=answer_of(request))

    def absent(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status)

    assert client_of(infer, absent, absent).logits(PUBLIC, 2).shape == (5, 2)
    assert names == ["input"]


def test_rows_and_doubles_are_read_too() -> None:
    def infer(request: httpx.Request) -> httpx.Response:
        answer = answer_of(request)
        output = answer["outputs"][0]  # type: ignore[index]
        output["datatype"], output["data"] = "FP64", expected(INPUTS).tolist()
        return httpx.Response(200, json=answer)

    assert client_of(infer).logits(PUBLIC, 2).tolist() == expected(INPUTS).tolist()


@pytest.mark.parametrize("not_public", [INPUTS, Records(INPUTS, np.zeros(5, dtype=np.int64), tuple("abcde"))])
def test_private_records_never_reach_the_transport(not_public: object) -> None:
    def never(_: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    with pytest.raises(FoundationRefused, match="not a public set"):
        client_of(never, never, never).logits(not_public, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("inputs", [INPUTS[:0], np.full((2, 3), np.nan, dtype=np.float32)])
def test_an_unusable_public_set_is_refused(inputs: np.ndarray) -> None:
    with pytest.raises(FoundationRefused):
        client_of().logits(PublicSet.of(inputs, None), 2)


# --- down, slow ------------------------------------------------------------------------------------------------------


def test_a_server_that_recovers_is_asked_again_with_growing_pauses() -> None:
    statuses = iter([500, 503, 502, 200])
    sleeps: list[float] = []

    def infer(request: httpx.Request) -> httpx.Response:
        status = next(statuses)
        return httpx.Response(status, json=answer_of(request) if status == 200 else {"error": "loading"})

    assert client_of(infer, sleeps=sleeps).logits(PUBLIC, 2).shape == (5, 2)
    assert sleeps == [0.5, 1.0, 2.0]


def test_a_server_that_stays_broken_is_given_up_with_its_own_words() -> None:
    sleeps: list[float] = []
    with pytest.raises(FoundationUnavailable, match=r"HTTP 503 \(out of memory\) \(5 attempts\)"):
        client_of(lambda _: httpx.Response(503, json={"error": "out of memory"}), sleeps=sleeps).logits(PUBLIC, 2)
    assert sleeps == [0.5, 1.0, 2.0, 4.0]


def test_a_refused_connection_is_unavailable() -> None:
    with socket.socket() as probe:  # a port that was free a moment ago and that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sleeps: list[float] = []
    with pytest.raises(FoundationUnavailable) as caught:
        FoundationClient(f"http://127.0.0.1:{port}", "teacher", 5.0, sleep=sleeps.append).logits(PUBLIC, 2)
    assert len(sleeps) == 4
    assert caught.value.hint


def test_a_silent_server_is_given_up_at_the_timeout_and_not_asked_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts and says nothing
        client = FoundationClient(
            f"http://127.0.0.1:{silent.getsockname()[1]}", "teacher", 0.05, sleep=lambda _: pytest.fail("asked again")
        )
        with pytest.raises(FoundationUnavailable, match=r"no answer in 0\.05 seconds"):
            client.logits(PUBLIC, 2)


def test_a_server_that_drips_one_byte_at_a_time_is_given_up() -> None:
    seconds = iter(range(1000))

    def infer(_: httpx.Request) -> httpx.Response:
        def drip() -> Iterator[bytes]:
            while True:
                yield b" "

        return httpx.Response(200, content=drip())

    with pytest.raises(FoundationUnavailable, match="no answer in 5 seconds"):
        client_of(infer, monotonic=lambda: float(next(seconds))).logits(PUBLIC, 2)


def test_a_server_that_is_not_ready_is_unavailable() -> None:
    with pytest.raises(FoundationUnavailable, match="not ready: HTTP 400"):
        client_of(ready=lambda _: httpx.Response(400)).logits(PUBLIC, 2)


@pytest.mark.parametrize("status", [401, 403, 404, 505])
def test_no_answer_for_us_is_unavailable(status: int) -> None:
    with pytest.raises(FoundationUnavailable, match=f"HTTP {status}"):
        client_of(lambda _: httpx.Response(status, json={"error": "no"})).logits(PUBLIC, 2)


def test_metadata_that_is_refused_is_unavailable() -> None:
    with pytest.raises(FoundationUnavailable, match="unknown model"):
        client_of(metadata=lambda _: httpx.Response(400, json={"error": "unknown model"})).logits(PUBLIC, 2)


# --- wrong answers ---------------------------------------------------------------------------------------------------


def wrong(**changes: object) -> Handler:
    """A handler whose output tensor differs from the honest one in ``changes``."""

    def infer(request: httpx.Request) -> httpx.Response:
        answer = answer_of(request)
        answer["outputs"][0].update(changes)  # type: ignore[index]
        return httpx.Response(200, content=json.dumps(answer))

    return infer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [5, 3]}, r"shape \[5, 3\] where \[5, 2\] belongs"),
        ({"shape": [2, 5]}, "shape"),
        ({"shape": [10]}, "shape"),
        ({"shape": [-5, -2]}, "shape"),
        ({"data": [0.0] * 9}, "9 values where the shape says 10"),
        ({"data": [0.0] * 11}, "11 values"),
        ({"data": [[0.0, 1.0]] * 4 + [[0.0]]}, "rows of different lengths"),
        ({"data": [float("nan")] * 10}, "NaN"),
        ({"data": [float("inf")] * 10}, "infinity"),
        ({"data": ["0.5"] * 10}, "not a number"),
        ({"data": [0.5] * 9 + [10**30]}, "not a number"),
        ({"data": [True] * 10}, "not a number"),
        ({"data": [None] * 10}, "not a number"),
        ({"data": [{}] * 10}, "not a number"),
        ({"data": None}, "data"),
        ({"data": [1e39] * 10, "datatype": "FP64"}, "beyond float32"),
        ({"datatype": "INT64"}, "datatype 'INT64'"),
        ({"datatype": "BYTES"}, "datatype"),
        ({"name": "embedding"}, "0 outputs called 'scores'"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FoundationAnswerInvalid, match=words) as caught:
        client_of(wrong(**changes)).logits(PUBLIC, 2)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>Sign in to the hospital network</body></html>",
        b"",
        b"[]",
        b"null",
        b'{"model_name": "teacher"}',
        b'{"model_name": "teacher", "outputs": []}',
        b'{"model_name": "teacher", "outputs": [{"name": "scores"}]}',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"model_name": "teacher", "outputs": [{"name":"scores","datatype":"FP32","shape":[5,2],"data":[1e999]}]}',
    ],
)
def test_an_answer_that_is_no_v2_answer_is_refused(content: bytes) -> None:
    with pytest.raises(FoundationAnswerInvalid):
        client_of(lambda _: httpx.Response(200, content=content)).logits(PUBLIC, 2)


def test_two_outputs_of_one_name_are_refused() -> None:
    def infer(request: httpx.Request) -> httpx.Response:
        answer = answer_of(request)
        answer["outputs"] *= 2  # type: ignore[operator]
        return httpx.Response(200, json=answer)

    with pytest.raises(FoundationAnswerInvalid, match="2 outputs called"):
        client_of(infer).logits(PUBLIC, 2)


def test_another_models_answer_is_refused() -> None:
    with pytest.raises(FoundationAnswerInvalid, match="'impostor'"):
        client_of(lambda r: httpx.Response(200, json=answer_of(r) | {"model_name": "impostor"})).logits(PUBLIC, 2)


def test_a_request_that_the_server_calls_wrong_says_why() -> None:
    with pytest.raises(FoundationAnswerInvalid, match=r"HTTP 400 \(expected 4 columns"):
        client_of(lambda _: httpx.Response(400, json={"error": "expected 4 columns\x1b[2J"})).logits(PUBLIC, 2)


def test_a_redirect_is_not_followed() -> None:
    """It would take the question to an endpoint that the site policy does not name."""
    with pytest.raises(FoundationAnswerInvalid, match="HTTP 307") as caught:
        client_of(lambda _: httpx.Response(307, headers={"location": "http://elsewhere.example/"})).logits(PUBLIC, 2)
    assert "redirects are not followed" in caught.value.hint


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    served = 0

    def infer(_: httpx.Request) -> httpx.Response:
        def flood() -> Iterator[bytes]:
            nonlocal served
            while True:
                served += 2**14
                yield b" " * 2**14

        return httpx.Response(200, content=flood())

    with pytest.raises(FoundationAnswerInvalid, match="more than"):
        client_of(infer).logits(PUBLIC, 2)
    assert served < 2**18


def test_a_compressed_answer_is_refused() -> None:
    with pytest.raises(FoundationAnswerInvalid, match="compressed"):
        client_of(lambda _: httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"x")),
                  ).logits(PUBLIC, 2)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "impostor"}, "metadata of 'impostor'"),
        ({"inputs": METADATA["inputs"] * 2}, "2 inputs"),  # type: ignore[operator]
        ({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 3]}]}, "reads 'UINT8'"),
        ({"outputs": [{"name": "a"}, {"name": "b"}]}, "several outputs"),
        ({"inputs": "pixels"}, "inputs"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(FoundationAnswerInvalid, match=words):
        client_of(metadata=lambda _: httpx.Response(200, json=METADATA | changes)).logits(PUBLIC, 2)


def test_of_several_outputs_the_logits_are_asked_for() -> None:
    def infer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["outputs"] == [{"name": "logits"}]
        answer = answer_of(request)
        answer["outputs"][0]["name"] = "logits"  # type: ignore[index]
        return httpx.Response(200, json=answer)

    outputs = [{"name": "embedding"}, {"name": "logits"}]
    client = client_of(infer, lambda _: httpx.Response(200, json=METADATA | {"outputs": outputs}))
    assert client.logits(PUBLIC, 2).shape == (5, 2)


# --- configuration and tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "teacher.example",
        "ftp://teacher.example",
        "http://",
        "http://a b",
        "http://x/?q=1",
        "http://x/#f",
        "http://[",
        "http://x:99999",
        "http://x/a?b",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="expected"):
        FoundationClient(url, "teacher", 5.0)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        FoundationClient("http://user:secret@teacher.example", "teacher", 5.0)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("model", ["", "..", "a/b", "a?b", "x" * 129, "naïve"])
def test_a_model_name_cannot_change_the_path(model: str) -> None:
    with pytest.raises(InvalidConfiguration):
        FoundationClient("http://teacher.example", model, 5.0)


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 5)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_float32_values_survive_the_json_exactly(values: np.ndarray) -> None:
    read = Tensor.model_validate_json(tensor("x", values).model_dump_json())
    assert values_of(read, values.shape).tobytes() == values.tobytes()
