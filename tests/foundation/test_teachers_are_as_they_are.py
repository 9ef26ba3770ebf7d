"""A hospital's inference server is what it is: its batches, types, versions, tokens and authority are met, or named."""

from __future__ import annotations

import json
import pickle
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secure_fedhelp.data.records import PublicSet
from secure_fedhelp.errors import (
    FedHelpError,
    FoundationAnswerInvalid,
    FoundationChanged,
    FoundationRefused,
    FoundationUnavailable,
    InvalidConfiguration,
)
from secure_fedhelp.learning.foundation import TeacherCache
from secure_fedhelp.learning.inference_client import FoundationClient, Manner
from secure_fedhelp.learning.inference_http import JSON_LENGTH, Token
from secure_fedhelp.learning.inference_protocol import tensor_bytes

RNG = np.random.default_rng(7)
INPUTS = RNG.normal(size=(21, 3)).astype(np.float32)
PUBLIC = PublicSet.of(INPUTS, None)
SECRET = "s3cr3t-token"
Answer = Callable[[np.ndarray], np.ndarray]


def logits_of(inputs: np.ndarray) -> np.ndarray:
    sums = inputs.reshape(len(inputs), -1).sum(axis=1, dtype=np.float64)
    return np.stack([sums, -sums, sums / 2], axis=1).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class Server:
    """A server of one model as the protocol has it, each of its habits a field."""

    def __init__(self, answer: Answer = logits_of, **habits: object) -> None:
        self.answer, self.asked, self.headers = answer, [], []
        self.datatype, self.input_type, self.version = "FP32", "FP32", lambda: "1"
        self.versions, self.outputs, self.largest, self.fixed = ["1"], ["scores"], None, -1
        self.extensions, self.refuse, self.as_bytes = ["binary_tensor_data"], None, False
        self.__dict__.update(habits)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        path = request.url.path
        if path == "/v2/health/ready":
            return httpx.Response(200)
        if path == "/v2":
            return httpx.Response(200, json={"name": "x", "extensions": self.extensions})
        if not path.endswith("/infer"):
            return httpx.Response(200, json=self.metadata())
        if self.refuse is not None and (refusal := self.refuse(len(self.asked))) is not None:
            return refusal
        return self.infer(request)

    def metadata(self) -> dict[str, object]:
        outputs = [{"name": name, "datatype": self.datatype, "shape": [-1, 3]} for name in self.outputs]
        inputs = [{"name": "x", "datatype": self.input_type, "shape": [self.fixed, 3]}]
        return {"name": "teacher", "versions": self.versions, "inputs": inputs, "outputs": outputs}

    def infer(self, request: httpx.Request) -> httpx.Response:
        length = int(request.headers.get(JSON_LENGTH, len(request.content)))
        body, behind = json.loads(request.content[:length]), request.content[length:]
        (given_tensor,) = body["inputs"]
        if behind:
            raw = np.frombuffer(behind, dtype={"FP16": "<f2", "BF16": "<u2"}[given_tensor["datatype"]])
            values = widened(raw) if given_tensor["datatype"] == "BF16" else raw.astype(np.float32)
        else:
            values = np.asarray(given_tensor["data"], dtype=np.float32)
        values = values.reshape(given_tensor["shape"])
        self.asked.append((given_tensor["datatype"], len(values), bool(behind)))
        if self.largest is not None and len(values) > self.largest:
            words = f"[request id: 1] inference request batch-size must be <= {self.largest} for 'teacher'"
            return httpx.Response(400, json={"error": words})
        found = self.answer(values)
        name = body["outputs"][0]["name"] if body.get("outputs") else "scores"
        output = {"name": name, "datatype": self.datatype, "shape": list(found.shape)}
        answer = {"model_name": "teacher", "outputs": [output]}
        if (version := self.version()) is not None:
            answer["model_version"] = version
        asked_bytes = any(o.get("parameters", {}).get("binary_data") for o in body.get("outputs", []))
        if not (asked_bytes or self.as_bytes):
            output["data"] = found.ravel().tolist()
            return httpx.Response(200, json=answer)
        data = found.astype("<f8").tobytes() if self.datatype == "FP64" else tensor_bytes(found, self.datatype)
        output["parameters"] = {"binary_data_size": len(data)}
        text = json.dumps(answer).encode()
        return httpx.Response(200, content=text + data, headers={JSON_LENGTH: str(len(text))})


def widened(halves: np.ndarray) -> np.ndarray:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def client_of(server: Server, **manner: object) -> FoundationClient:
    transport = httpx.MockTransport(server)
    return FoundationClient(
        "https://teacher.example", "teacher", 5.0, transport, Manner(**manner), sleep=lambda _: None
    )


def asked(server: Server, **manner: object) -> np.ndarray:
    return client_of(server, **manner).logits(PUBLIC, 3)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1, 2, 8, 20, 21, 500])
def test_a_named_largest_batch_is_kept_to(largest: int) -> None:
    server = Server()
    assert np.array_equal(asked(server, largest_batch=largest), logits_of(INPUTS))
    assert max(count for _, count, _ in server.asked) == min(largest, 21)


@pytest.mark.parametrize("largest", [1, 8, 20])
def test_the_largest_batch_that_triton_names_is_taken_from_there(largest: int) -> None:
    server = Server(largest=largest)
    assert np.array_equal(asked(server), logits_of(INPUTS))
    assert [count for _, count, _ in server.asked][:2] == [21, largest]


def test_a_largest_batch_that_helps_nothing_is_an_error_and_no_loop() -> None:
    def refuse(_: int) -> httpx.Response:
        return httpx.Response(400, json={"error": "batch-size must be <= 300 for 'teacher'"})

    with pytest.raises(FoundationAnswerInvalid, match="batch-size must be <= 300"):
        asked(Server(refuse=refuse))


@pytest.mark.parametrize("fixed", [1, 4, 21, 64])
def test_a_model_that_takes_one_number_of_records_only_gets_it(fixed: int) -> None:
    server = Server(fixed=fixed)
    assert np.array_equal(asked(server), logits_of(INPUTS))
    assert {count for _, count, _ in server.asked} == {fixed}


def test_metadata_of_other_inputs_are_refused_before_anything_is_sent() -> None:
    server = Server()
    with pytest.raises(FoundationAnswerInvalid, match=r"reads shape \[-1, 3\]; the plan's is \[-1, 2\]"):
        client_of(server).logits(PublicSet.of(INPUTS[:, :2], None), 3)
    assert server.asked == []


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_question_that_may_be_too_large_says_how_to_make_it_smaller(status: int) -> None:
    with pytest.raises(FedHelpError) as caught:
        asked(Server(refuse=lambda _: httpx.Response(status, json={"error": "no"})))
    assert status == 500 or "largest_batch" in caught.value.hint


# --- datatypes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_every_floating_point_answer_is_read(datatype: str, as_bytes: bool) -> None:
    found = asked(Server(datatype=datatype, as_bytes=as_bytes))
    tolerance = {"FP16": 2e-3, "BF16": 1e-2}.get(datatype, 0)
    assert np.allclose(found, logits_of(INPUTS), rtol=tolerance, atol=tolerance / 10)


def test_halves_from_a_server_that_writes_them_as_json_are_read() -> None:
    class Plain(Server):
        def infer(self, request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            values = np.asarray(body["inputs"][0]["data"], dtype=np.float32).reshape(body["inputs"][0]["shape"])
            found = logits_of(values).astype(np.float16)
            output = {"name": "scores", "datatype": "FP16", "shape": list(found.shape), "data": found.ravel().tolist()}
            return httpx.Response(200, json={"model_name": "teacher", "model_version": "1", "outputs": [output]})

    assert np.allclose(asked(Plain(datatype="FP16")), logits_of(INPUTS), rtol=2e-3)


@pytest.mark.parametrize(
    ("input_type", "extensions", "sent"),
    [
        ("FP32", [], ("FP32", False)),
        ("FP64", [], ("FP64", False)),
        ("FP16", [], ("FP16", False)),
        ("FP16", ["binary_tensor_data"], ("FP16", True)),
        ("BF16", [], ("BF16", True)),
    ],
)
def test_a_model_gets_the_datatype_that_it_reads(input_type: str, extensions: list[str], sent: object) -> None:
    server = Server(input_type=input_type, extensions=extensions)
    found = asked(server)
    assert {(datatype, as_bytes) for datatype, _, as_bytes in server.asked} == {sent}
    assert np.allclose(found, logits_of(INPUTS), rtol=2e-2, atol=2e-2)


@given(arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bf16_is_rounded_to_nearest_with_ties_to_even(values: np.ndarray) -> None:
    import torch

    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).to(torch.float32).numpy()
    assert np.array_equal(widened(np.frombuffer(tensor_bytes(values, "BF16"), "<u2")).reshape(3, 2), expected)


def raw(answer: dict[str, object], data: bytes, length: int | str | None = None) -> Server:
    text = json.dumps({"model_name": "teacher", "model_version": "1", **answer}).encode()
    headers = {JSON_LENGTH: str(len(text) if length is None else length)}
    return Server(refuse=lambda _: httpx.Response(200, content=text + data, headers=headers))


def output(size: object, datatype: str = "FP16") -> dict[str, object]:
    return {"name": "scores", "datatype": datatype, "shape": [21, 3], "parameters": {"binary_data_size": size}}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (raw({"outputs": [output(126)]}, bytes(125)), "126 bytes are announced, 125 are there"),
        (raw({"outputs": [output(126)]}, bytes(127)), "belong to no tensor"),
        (raw({"outputs": [output(125)]}, bytes(125)), "are no FP16"),
        (raw({"outputs": [output(124)]}, bytes(124)), "62 values"),
        (raw({"outputs": [output(-1)]}, b""), "binary_data_size"),
        (raw({"outputs": [output(126)]}, b"\xff\x7f" * 63), "NaN"),
        (raw({"outputs": [output(126, "BF16")]}, b"\x80\x7f" * 63), "infinity"),
        (raw({"outputs": [output(126)]}, bytes(126), "many"), "'many'"),
        (raw({"outputs": [output(126)]}, bytes(126), 10**9), "of an answer of"),
        (raw({"outputs": [output(126)]}, bytes(126), 5), "JSON"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(server: Server, words: str) -> None:
    with pytest.raises(FoundationAnswerInvalid, match=words):
        asked(server)


def test_null_for_what_is_infinite_says_what_it_is() -> None:
    class Nulls(Server):
        def infer(self, request: httpx.Request) -> httpx.Response:
            output = {"name": "scores", "datatype": "FP16", "shape": [21, 3], "data": [1.0, None, -1.0] * 21}
            return httpx.Response(200, json={"model_name": "teacher", "model_version": "1", "outputs": [output]})

    with pytest.raises(FoundationAnswerInvalid, match="null, which is not a number.*65504"):
        asked(Nulls())


# --- probabilities ---------------------------------------------------------------------------------------------------


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("answers", [None, "logits"])
def test_probabilities_that_nobody_declared_are_refused(datatype: str, answers: str | None) -> None:
    server = Server(lambda x: softmax(logits_of(x)), datatype=datatype)
    with pytest.raises(FoundationAnswerInvalid, match="adds up to") as caught:
        asked(server, answers=answers)
    assert 'answers = "probabilities"' in caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: 100 * softmax(logits_of(x)),
        lambda x: np.eye(3, dtype=np.float32)[logits_of(x).argmax(axis=1)],
        lambda x: np.round(softmax(logits_of(x)), 2),
        lambda x: np.round(50 * np.eye(3, dtype=np.float32)[logits_of(x).argmax(axis=1)]),
    ],
    ids=["percent", "hard labels", "rounded", "votes"],
)
def test_other_shares_are_no_logits_either(answer: Answer) -> None:
    with pytest.raises(FoundationAnswerInvalid, match="adds up to"):
        asked(Server(answer))


def test_a_sigmoid_of_each_class_is_refused_unless_stated_to_be_logits() -> None:
    server = Server(lambda x: sigmoid(logits_of(x)))
    with pytest.raises(FoundationAnswerInvalid, match="between 0 and 1: a sigmoid of each class"):
        asked(server)
    with pytest.raises(FoundationAnswerInvalid, match="declared probabilities that add up to"):
        asked(server, answers="probabilities")
    assert np.array_equal(asked(server, answers="logits"), sigmoid(logits_of(INPUTS)))


def test_masks_are_judged_over_the_classes_of_each_pixel() -> None:
    images = PublicSet.of(RNG.normal(size=(4, 1, 5, 5)).astype(np.float32), None)

    def pixels(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, -x, x / 2], axis=1)

    server = Server(lambda x: softmax(pixels(x)), fixed=-1)
    server.metadata = lambda: {"name": "teacher"}  # type: ignore[method-assign]
    with pytest.raises(FoundationAnswerInvalid, match="adds up to"):
        client_of(server).logits(images, (3, 5, 5))
    found = client_of(server, answers="probabilities").logits(images, (3, 5, 5))
    assert np.allclose(softmax(found), softmax(pixels(images.inputs)), atol=1e-6)


@given(
    arrays(np.float32, (4, 3), elements=st.floats(-40, 40, width=32)),
    st.sampled_from([1.0, 3.0, 8.0]),
)
def test_declared_probabilities_teach_what_their_logits_would(logits: np.ndarray, temperature: float) -> None:
    """Against softmax(z / T), computed in doubles from the logits themselves."""
    server = Server(lambda x: softmax(logits.astype(np.float64)).astype(np.float32), version=lambda: None, versions=[])
    found = client_of(server, answers="probabilities").logits(PublicSet.of(INPUTS[:4], None), 3)
    target = softmax(logits.astype(np.float64) / temperature)
    assert np.allclose(softmax(found.astype(np.float64) / temperature), target, atol=1e-4)


@pytest.mark.parametrize(("datatype", "floor"), [("FP16", 2.0**-24), ("FP32", 2.0**-126)])
def test_a_probability_of_nothing_is_the_smallest_of_its_datatype(datatype: str, floor: float) -> None:
    one = np.zeros((21, 3), dtype=np.float32)
    one[:, 1] = 1
    found = asked(Server(lambda x: one[: len(x)], datatype=datatype), answers="probabilities")
    assert np.allclose(found[:, 0], np.log(floor))
    assert (found[:, 1] == 0).all()


def test_declared_probabilities_may_be_rounded() -> None:
    found = asked(Server(lambda x: np.round(softmax(logits_of(x)), 2)), answers="probabilities")
    assert np.allclose(softmax(found), softmax(logits_of(INPUTS)), atol=0.01)


def test_declared_probabilities_that_are_logits_are_refused() -> None:
    with pytest.raises(FoundationAnswerInvalid, match="below 0 or above 1"):
        asked(Server(), answers="probabilities")


def test_logits_that_happen_to_be_positive_are_logits() -> None:
    assert (asked(Server(lambda x: logits_of(x) + 100)) > 0).all()
    same_sum = Server(lambda x: logits_of(x) - logits_of(x).mean(axis=1, keepdims=True) + 100)
    assert (asked(same_sum) > 0).all()


# --- classes in another order ----------------------------------------------------------------------------------------

MANY = RNG.normal(size=(300, 3)).astype(np.float32)
LABELS = np.argmax(logits_of(MANY) + RNG.normal(size=(300, 3)), axis=1)


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0], [1, 2, 0]])
def test_classes_in_another_order_are_noticed_by_the_public_labels(order: list[int]) -> None:
    labels = np.argmax(MANY + 0.3 * RNG.normal(size=(300, 3)), axis=1)
    public = PublicSet.of(MANY, labels)
    assert client_of(Server(lambda x: x)).logits(public, 3).shape == (300, 3)
    with pytest.raises(FoundationAnswerInvalid, match="another order than the plan's"):
        client_of(Server(lambda x: x[:, order])).logits(public, 3)


@pytest.mark.parametrize("seed", range(20))
def test_a_weak_teacher_and_a_shifted_threshold_are_no_other_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(300) % 3
    inputs = rng.normal(size=(300, 3)).astype(np.float32)
    weak = PublicSet.of(inputs, labels)
    assert client_of(Server(lambda x: x)).logits(weak, 3).shape == (300, 3)
    good = PublicSet.of((inputs + 2 * np.eye(3)[labels]).astype(np.float32), labels)
    shifted = Server(lambda x: x + np.array([0, 0, 50], dtype=np.float32))
    assert (client_of(shifted).logits(good, 3).argmax(axis=1) == 2).all()


# --- one model -------------------------------------------------------------------------------------------------------


def changing(*versions: str | None) -> Callable[[], str | None]:
    coming = iter([*versions, *[versions[-1]] * 100])
    return lambda: next(coming)


@pytest.mark.parametrize(
    ("versions", "told"),
    [(["1", "2"], ("1", "1", "2")), ([], ("1", "2")), ([], (None, "2")), ([], ("1", None)), ([], ("1", "1", "1", "2"))],
)
def test_a_version_that_changes_between_answers_is_refused_and_nothing_kept(
    versions: list[str], told: tuple[str | None, ...], tmp_path: Path
) -> None:
    server = Server(versions=versions, version=changing(*told))
    with pytest.raises(FoundationChanged, match="changed while it was asked"):
        TeacherCache(tmp_path / "cache").answers(PUBLIC, client_of(server, largest_batch=8), 3)
    assert not (tmp_path / "cache").exists()


def test_an_answer_of_a_version_that_the_metadata_lack_is_refused() -> None:
    with pytest.raises(FoundationChanged, match="answered as version '2', its metadata say '1'"):
        asked(Server(version=lambda: "2"))


def test_a_model_replaced_without_a_version_is_noticed() -> None:
    calls = iter(range(100))
    server = Server(lambda x: logits_of(x) * (1 if next(calls) < 2 else -1), version=lambda: None, versions=[])
    with pytest.raises(FoundationChanged, match="answers otherwise about a record"):
        asked(server, largest_batch=8)


def test_a_named_version_is_asked_for_and_answered() -> None:
    paths: list[str] = []
    server = Server(versions=["1", "2"], version=lambda: "2")

    def handle(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return server(request)

    client = FoundationClient(
        "https://teacher.example", "teacher", 5.0, httpx.MockTransport(handle), Manner(version="2")
    )
    assert client.ask(PUBLIC, 3).model_version == "2"
    assert paths[1:] == ["/v2/models/teacher/versions/2", "/v2/models/teacher/versions/2/infer"]
    with pytest.raises(FoundationChanged, match="answered as version '2', asked was '1'"):
        asked(server, version="1")


@pytest.mark.parametrize("version", ["", "..", "1/2", "1?x"])
def test_a_version_cannot_change_the_path(version: str) -> None:
    with pytest.raises(InvalidConfiguration, match="version"):
        client_of(Server(), version=version)


def test_the_named_output_is_asked_for() -> None:
    server = Server(outputs=["embedding", "probabilities"])
    assert asked(server, output="probabilities").shape == (21, 3)
    with pytest.raises(FoundationAnswerInvalid, match="no output 'logits'; it has 'embedding', 'probabilities'"):
        asked(server, output="logits")
    with pytest.raises(FoundationAnswerInvalid, match="several outputs") as caught:
        asked(server)
    assert "output in [[foundations]]" in caught.value.hint


def test_empty_and_missing_metadata_are_none() -> None:
    """MLServer answers empty lists for a model without metadata, other servers null."""
    for unknown in ([], None):
        server = Server()
        server.metadata = lambda unknown=unknown: {  # type: ignore[method-assign]
            "name": "teacher", "versions": unknown, "inputs": unknown, "outputs": unknown
        }  # fmt: skip
        assert asked(server, output="predict_proba").shape == (21, 3)


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_the_token_is_in_every_request_and_in_nothing_that_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server = Server()
    client = client_of(server, token=Token(SECRET))
    assert client.logits(PUBLIC, 3).shape == (21, 3)
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    shown = [repr(client), repr(client.manner), str(client.manner.token), repr(vars(client.manner)), caplog.text]
    assert not any(SECRET in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(client.manner.token)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
def test_a_server_that_repeats_the_token_does_not_make_us_print_it(status: int) -> None:
    server = Server(refuse=lambda _: httpx.Response(status, json={"error": f"Bearer {SECRET} is not known here"}))
    with pytest.raises(FedHelpError) as caught:
        asked(server, token=Token(SECRET))
    assert SECRET not in caught.value.message + caught.value.hint
    assert "[token] is not known here" in caught.value.message


@pytest.mark.parametrize("text", ["", "two words", "line\nline", "ümlaut", "a\x00b", "x" * 20_000, "a\r\nX-Evil: 1"])
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="no bearer token") as caught:
        Token(text)
    assert not text or text not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("url", ["http://teacher.example", "http://10.0.0.1:8000", "http://localhost.example"])
def test_a_token_does_not_travel_in_clear(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="plain HTTP"):
        FoundationClient(url, "teacher", 5.0, None, Manner(token=Token(SECRET)))


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "https://x"])
def test_on_this_machine_or_over_tls_it_may(url: str) -> None:
    FoundationClient(url, "teacher", 5.0, None, Manner(token=Token(SECRET)))


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "token_file"), (403, "operator"), (404, "version"), (413, "largest_batch"), (429, "later"), (503, "later")],
)
def test_each_refusal_says_what_to_do(status: int, hint: str) -> None:
    with pytest.raises(FoundationUnavailable, match=f"HTTP {status} \\(because\\)") as caught:
        asked(Server(refuse=lambda _: httpx.Response(status, json={"error": "because"})))
    assert hint in caught.value.hint


def test_a_token_that_is_not_accepted_is_told_apart_from_none() -> None:
    with pytest.raises(FoundationUnavailable) as caught:
        asked(Server(refuse=lambda _: httpx.Response(401)), token=Token(SECRET))
    assert "not accepted" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"json": {"error": "no\x1b[2J\nway\u202e"}}, "(no [2J way )"),
        ({"json": {"detail": "Not authenticated"}}, "(Not authenticated)"),
        ({"json": {"detail": [{"loc": ["body", "inputs", 0], "msg": "too long"}]}}, "(body.inputs.0: too long)"),
        ({"json": {"message": "no Route matched"}}, "(no Route matched)"),
        ({"text": "Traceback (most recent call last):\n  File x\nValueError: bad shape\n"}, "(ValueError: bad shape)"),
        ({"text": "upstream connect error"}, "(upstream connect error)"),
        ({"text": "<html>Sign in</html>"}, None),
        ({"text": "x" * 10**6}, "(" + "x" * 200 + ")"),
        ({"content": b"\xff\xfe\x00"}, None),
        ({"json": {"error": {"deep": "x"}}}, None),
        ({"json": [1, 2]}, None),
        ({"text": "[" * 60_000}, None),
    ],
)
def test_the_servers_own_words_are_shown_short_and_clean(body: dict[str, object], words: str | None) -> None:
    with pytest.raises(FedHelpError) as caught:
        asked(Server(refuse=lambda _: httpx.Response(418, **body)))  # type: ignore[arg-type]
    message = caught.value.message
    assert len(message) < 350
    assert message.isprintable()
    if words is not None:
        assert words in message


def test_a_pause_that_the_server_asks_for_is_made_and_bounded() -> None:
    for told, waited in (("7", 7.0), ("3600", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5), ("-1", 0.5)):
        sleeps: list[float] = []
        server = Server(refuse=lambda n, told=told: httpx.Response(429, headers={"retry-after": told}))
        client = FoundationClient(
            "https://teacher.example", "teacher", 5.0, httpx.MockTransport(server), sleep=sleeps.append
        )
        with pytest.raises(FoundationUnavailable, match="HTTP 429"):
            client.logits(PUBLIC, 3)
        assert sleeps[0] == waited
        assert len(sleeps) == 4


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"\xff\xfe"])
def test_a_ca_file_without_a_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(InvalidConfiguration, match="ca_file holds no certificate"):
        client_of(Server(), ca_pem=pem)


def test_a_ca_file_for_a_server_without_tls_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="without TLS"):
        FoundationClient("http://127.0.0.1:1", "teacher", 5.0, None, Manner(ca_pem=b"x"))


def test_a_certificate_that_nobody_vouches_for_is_named_at_once() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]", request=request) from ssl.SSLError()

    client = FoundationClient(
        "https://teacher.example", "teacher", 5.0, httpx.MockTransport(refuse), sleep=lambda _: pytest.fail("again")
    )
    with pytest.raises(FoundationUnavailable) as caught:
        client.logits(PUBLIC, 3)
    assert "ca_file" in caught.value.hint


# --- what was kept ---------------------------------------------------------------------------------------------------


def kept(tmp_path: Path, server: Server, **manner: object) -> Path:
    TeacherCache(tmp_path).answers(PUBLIC, client_of(server, **manner), 3)
    return tmp_path / f"teacher-{PUBLIC.sha256}-teacher.json"


def test_a_record_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = kept(tmp_path, Server())
    values = json.loads(path.read_bytes())
    del values["answers"]
    path.write_text(json.dumps(values))
    never = Server(refuse=lambda _: pytest.fail("asked again"))
    assert np.array_equal(TeacherCache(tmp_path).answers(PUBLIC, client_of(never), 3), logits_of(INPUTS))


def test_probabilities_that_an_earlier_version_kept_as_logits_are_refused(tmp_path: Path) -> None:
    path = kept(tmp_path, Server(lambda x: softmax(logits_of(x))), answers="probabilities")
    values = json.loads(path.read_bytes())
    logits = tmp_path / path.with_suffix(".npy").name
    np.save(logits, softmax(logits_of(INPUTS)))
    from hashlib import sha256

    values |= {"logits_sha256": sha256(logits.read_bytes()).hexdigest()}
    del values["answers"]
    path.write_text(json.dumps(values))
    with pytest.raises(FoundationAnswerInvalid, match="adds up to") as caught:
        TeacherCache(tmp_path).answers(PUBLIC, client_of(Server()), 3)
    assert "delete the .npy and the .json" in caught.value.hint


def test_kept_answers_are_not_taken_for_others(tmp_path: Path) -> None:
    kept(tmp_path, Server(lambda x: softmax(logits_of(x))), answers="probabilities")
    again = TeacherCache(tmp_path).answers(PUBLIC, client_of(Server(), answers="probabilities"), 3)
    assert np.allclose(softmax(again), softmax(logits_of(INPUTS)), atol=1e-6)
    with pytest.raises(FoundationRefused, match="kept as probabilities, and hospital.toml now says logits"):
        TeacherCache(tmp_path).answers(PUBLIC, client_of(Server()), 3)
    with pytest.raises(FoundationRefused, match="answers of version '1', and hospital.toml now says '2'"):
        TeacherCache(tmp_path).answers(PUBLIC, client_of(Server(), answers="probabilities", version="2"), 3)
