"""A ledger without its key can only be appended to; everything else shows, by file, entry and reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DATASET, EVENT, NOW, STUDY, channels, fixed_key, forge, open_ledger, spend, write_ledger
from pydantic import ValidationError

from secure_fedhelp.errors import LedgerInvalid, StorageError
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.entries import GENESIS, ChannelRelease, Proof, Release, check_lines, parse_entry
from secure_fedhelp.privacy.ledger import Ledger, read_ledger
from secure_fedhelp.privacy.mechanisms import Gaussian, PooledExact
from secure_fedhelp.study.canonical import canonical_bytes

GOLDEN = Path(__file__).with_name("golden_ledger.jsonl")
KEY = fixed_key()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_ledger(tmp_path_factory.mktemp("ledger") / "ledger.jsonl", 4)


def channel(**changes: Any) -> ChannelRelease:
    return ChannelRelease.model_validate(
        {"name": "metrics", "mechanism": "dp-sgd", "derived_from": ("event:0",), "values_sha256": "0" * 64, **changes}
    )


def require_invalid(path: Path, data: bytes, match: str = "") -> None:
    path.write_bytes(data)
    with pytest.raises(LedgerInvalid, match=match) as caught:
        read_ledger(path, KEY.public_hex)
    assert str(path) in caught.value.message


# -- the format ------------------------------------------------------------------------------------------------------


def write_golden(path: Path) -> None:
    """Every kind of entry and event: how the golden file was made."""
    with open_ledger(path) as ledger:
        spend(ledger, 0)
        place: dict[str, Any] = {"study": STUDY, "delta": 1e-5, "dataset": DATASET}
        noised = [Gaussian(noise_multiplier=8.5, sensitivity=1.0)]
        counts = ChannelRelease(name="metrics", mechanism="gaussian", derived_from=("event:0",), values_sha256="c" * 64)
        ledger.reserve(noised, round=1, **place)
        ledger.release(noised, round=1, channels=[counts], noise_source="seeded-research", **place)
        ledger.void(ledger.reserve([PooledExact(smallest_cohort=3)], round=2, **place))


def test_the_format_is_that_of_the_golden_file(tmp_path: Path) -> None:
    write_golden(tmp_path / "ledger.jsonl")
    assert (tmp_path / "ledger.jsonl").read_bytes() == GOLDEN.read_bytes()


def test_the_golden_file_verifies_with_a_json_library_and_a_signature_library_alone() -> None:
    key, previous = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public_hex)), "0" * 64
    for index, line in enumerate(GOLDEN.read_bytes().splitlines()):
        record = json.loads(line)
        entry = record["entry"]
        message = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        key.verify(bytes.fromhex(record["signature"]), b"secure-fedhelp/v1/ledger-entry\0" + message)
        assert (entry["index"], entry["previous"], entry["public_key"]) == (index, previous, KEY.public_hex)
        previous = hashlib.sha256(line).hexdigest()
    assert index == 4


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ledger.jsonl"
    with open_ledger(path) as ledger:
        assert (ledger.count, ledger.head, ledger.entries, ledger.events()) == (0, GENESIS, (), [])
        written = [spend(ledger, number) for number in range(3)]
        head = ledger.head
    assert read_ledger(path, KEY.public_hex) == written == read_ledger(path)
    assert head == hashlib.sha256(path.read_bytes().splitlines()[-1]).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    with open_ledger(path) as ledger:
        assert ledger.entries == tuple(written)
        assert (ledger.head, ledger.count, ledger.hospital) == (head, 3, "alpha")
        assert ledger.events() == ledger.events(STUDY) == [EVENT] * 3
        assert ledger.events("6" * 64) == []
        assert spend(ledger, 3).previous == head
    assert [e.index for e in read_ledger(path)] == [0, 1, 2, 3]
    assert written[0].time == int(NOW)
    assert written[0].values() == {"model-update": f"{0:064x}", "public-logits": f"{1000:064x}"}


def test_channels_are_sorted_whatever_order_they_come_in(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        entry = settle(ledger, channels=channels()[::-1])
    assert [c.name for c in entry.channels] == ["model-update", "public-logits"]


def test_an_entry_cannot_be_changed_in_memory(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        entry = spend(ledger, 0)
    with pytest.raises(ValidationError):
        entry.round = 7  # type: ignore[misc]


# -- tampering without the key ---------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(data=st.data())
def test_flipping_any_bit_shows(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(content) - 2))
    changed = bytearray(content)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(LedgerInvalid):
        check_lines(bytes(changed).split(b"\n")[:-1], "file", KEY.public_hex)


@settings(max_examples=60)
@given(lines=st.lists(st.integers(0, 3), max_size=6))
def test_only_a_beginning_of_the_ledger_verifies(content: bytes, lines: list[int]) -> None:
    """Dropping, doubling and reordering show; cutting the end off is what the witnessed heads are for."""
    all_lines = content.split(b"\n")[:-1]
    chosen = [all_lines[i] for i in lines]
    if lines == list(range(len(lines))):
        assert len(check_lines(chosen, "file", KEY.public_hex)) == len(lines)
    else:
        with pytest.raises(LedgerInvalid, match=r"file: entry \d+: "):
            check_lines(chosen, "file", KEY.public_hex)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.replace(b'"round":0', b'"round": 0'),  # blanks
        lambda line: line.replace(b'{"entry":', b'{"entry":{},"entry":'),  # a doubled key
        lambda line: line.replace(b'"steps":5', b'"steps":5.0'),  # another spelling of a number
        lambda line: line.replace(b'"clipping_norm":1.0', b'"clipping_norm":1'),
        lambda line: line.replace(b'"format":2', b'"extra":1,"format":2'),
        lambda line: line.replace(b'"dp-sgd"', b'"laplace"'),
        lambda line: line.replace(b'"clipping_norm":1.0', b'"clipping_norm":NaN'),
        lambda line: line.replace(b'"patient"', b'"record"'),
        lambda line: line + b" ",
        lambda line: line + b"\r",
        lambda line: b"",
        lambda line: b"null",
        lambda line: b"[]",
        lambda line: b'"text"',
        lambda line: b'{"entry":3,"signature":"00"}',
        lambda line: b"[" * 30_000,
        lambda line: b"1" * 5000,
        lambda line: b"x" * 70_000,
        lambda line: b"\xff\xfe",
        lambda line: line[:-3] + b'"}',
        lambda line: line[:-130] + line[-130:].upper(),
        lambda line: line.replace(b'"alpha"', b'"\\ud800"'),
    ],
)
def test_malformed_lines_are_named_and_never_a_traceback(
    content: bytes, spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    first, rest = content.split(b"\n", 1)
    assert spoil(first) != first
    require_invalid(tmp_path / "ledger.jsonl", spoil(first) + b"\n" + rest, "entry 0")


# -- tampering with a key --------------------------------------------------------------------------------------------


def raise_noise(entry: dict[str, Any]) -> None:
    entry["events"][0]["noise_multiplier"] = 400.0


def test_another_key_cannot_sign_for_this_ledger(content: bytes, tmp_path: Path) -> None:
    require_invalid(
        tmp_path / "ledger.jsonl", forge(content, 1, raise_noise, fixed_key(9), chain=False), "entry 1.*signature"
    )


def test_naming_the_own_key_does_not_help_the_forger(content: bytes, tmp_path: Path) -> None:
    forger = fixed_key(9)
    forged = forge(content, 1, lambda e: e.update(public_key=forger.public_hex), forger, chain=False)
    require_invalid(tmp_path / "ledger.jsonl", forged, "entry 1.*key")
    (tmp_path / "ledger.jsonl").write_bytes(forged)
    with pytest.raises(LedgerInvalid, match="entry 1"):
        read_ledger(tmp_path / "ledger.jsonl")  # also without knowing whose ledger it is


def test_the_owner_cannot_change_one_entry_alone(content: bytes, tmp_path: Path) -> None:
    require_invalid(tmp_path / "ledger.jsonl", forge(content, 1, raise_noise, KEY, chain=False), "entry 2.*follow")


def test_the_owner_who_signs_everything_anew_has_another_head(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    with open_ledger(path) as ledger:
        witnessed = ledger.count, ledger.head
        ledger.require_witnessed(*witnessed)
    path.write_bytes(forge(content, 1, raise_noise, KEY, chain=True))
    with open_ledger(path) as ledger, pytest.raises(LedgerInvalid, match="witnessed"):
        ledger.require_witnessed(*witnessed)


def test_an_old_copy_put_back_does_not_forget_what_was_spent(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    with open_ledger(path) as ledger:
        heads = [GENESIS] + [hashlib.sha256(line).hexdigest() for line in content.splitlines()]
        for entries, head in enumerate(heads):
            ledger.require_witnessed(entries, head)
        with pytest.raises(LedgerInvalid):
            ledger.require_witnessed(3, heads[4])
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:3]))
    with open_ledger(path) as ledger, pytest.raises(LedgerInvalid, match="3 entries do not go on from the 4") as caught:
        ledger.require_witnessed(4, heads[4])
    assert "still counts" in caught.value.hint


def test_entries_of_two_hospitals_are_not_one_ledger(content: bytes, tmp_path: Path) -> None:
    forged = forge(content, 2, lambda e: e.update(hospital="beta"), KEY, chain=True)
    require_invalid(tmp_path / "ledger.jsonl", forged, "entry 2.*beta")


@pytest.mark.parametrize("key", [KEY, fixed_key(9)])
@pytest.mark.parametrize("hospital", ["alpha", "beta"])
def test_only_its_hospital_with_its_key_can_go_on(
    key: SigningKey, hospital: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    if (key, hospital) == (KEY, "alpha"):
        open_ledger(path, hospital, key).close()
        return
    with pytest.raises(LedgerInvalid):
        open_ledger(path, hospital, key)
    assert path.read_bytes() == content
    open_ledger(path).close()  # the lock was given back


def test_a_damaged_ledger_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    spoiled = content[:200] + b"#" + content[201:]
    path.write_bytes(spoiled)
    with pytest.raises(LedgerInvalid, match="entry 0"):
        open_ledger(path)
    assert path.read_bytes() == spoiled


# -- fields that are no entry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"delta": 0.0},
        {"delta": math.nan},
        {"unit": "record"},
        {"round": -1},
        {"study": "short"},
        {"noise_source": "torch"},
        {"channels": []},
        {"channels": channels() + channels()[:1]},
        {"dataset": "alpha"},
        {"events": [{"kind": "laplace", "scale": 1.0}]},
        {"channels": [channel(mechanism="gaussian")]},
        {"channels": [channel(derived_from=("event:1",))]},
    ],
)
def test_what_is_no_entry_is_not_written(change: dict[str, Any], tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "study": STUDY,
        "round": 0,
        "unit": "patient",
        "delta": 1e-4,
        "dataset": DATASET,
        "events": [EVENT],
        "channels": channels(),
        "noise_source": "system",
    }
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        with pytest.raises(ValidationError):
            ledger.release(**(values | change))
        assert (ledger.count, (tmp_path / "ledger.jsonl").read_bytes()) == (0, b"")


@pytest.mark.parametrize(
    ("mechanism", "derived_from"),
    [
        ("dp-sgd", ()),
        ("dp-sgd", ("model-update",)),
        ("dp-sgd", ("public:plan",)),
        ("dp-sgd", ("event:0", "event:1")),
        ("dp-sgd", ("entry:" + "a" * 64,)),
        ("gaussian", ("event:0", "event:0")),
        ("gaussian", ("public:plan", "event:0")),
        ("post-processing", ("public:plan",)),
        ("post-processing", ("public:records",)),
        ("public", ("event:0",)),
        ("public", ("entry:" + "a" * 64, "public:plan")),
        ("laplace", ("event:0",)),
    ],
)
def test_a_proof_says_of_what_and_contradicts_nothing(mechanism: str, derived_from: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Proof.model_validate({"mechanism": mechanism, "derived_from": derived_from})


# -- reservations ------------------------------------------------------------------------------------------------------


def place(round_number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"study": STUDY, "round": round_number, "delta": 1e-4, "dataset": DATASET, **changes}


def settle(ledger: Ledger, **changes: Any) -> Release:
    values = {"events": [EVENT], "channels": channels(), "noise_source": "system", **place(), **changes}
    return ledger.release(**values)


@pytest.mark.parametrize("change", [{"dataset": "e" * 64}, {"events": [EVENT.model_copy(update={"steps": 6})]}])
def test_a_release_that_is_not_what_was_reserved_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.reserve([EVENT], **place())
        with pytest.raises(LedgerInvalid, match="is not that of the reservation in entry 0"):
            settle(ledger, **change)
        assert (ledger.count, ledger.events(), len(ledger.committed())) == (1, [], 1)


def test_a_round_is_reserved_once_at_a_time(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        first = ledger.reserve([EVENT], **place())
        with pytest.raises(LedgerInvalid, match="reserved already"):
            ledger.reserve([EVENT], **place())
        ledger.void(first)
        with pytest.raises(LedgerInvalid, match="no open reservation"):
            ledger.void(first)
        ledger.reserve([EVENT], **place())
        settle(ledger)
        settle(ledger)  # trained again after the values were lost: paid again
        assert [entry.kind for entry in ledger.entries] == ["reservation", "void", "reservation", "release", "release"]
    assert len(read_ledger(tmp_path / "ledger.jsonl", KEY.public_hex)) == 5


@pytest.mark.parametrize(
    ("index", "change", "reason"),
    [
        (1, {"reservation": 2}, "no open reservation"),
        (1, {"round": 1}, "its round"),
        (1, {"study": "6" * 64}, "its study"),
        (2, {"reservation": 0, "kind": "void"}, "no open reservation"),
        (3, {"round": 2}, "reserved already"),
        (4, {"reservation": 3}, "its round"),
    ],
)
def test_whoever_holds_the_key_still_cannot_contradict_the_reservations(
    index: int, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """0 and 2 are reservations of rounds 0 and 2, 1 releases round 0, 3 reserves round 3, 4 voids round 2."""
    path = tmp_path / "ledger.jsonl"
    with open_ledger(path) as ledger:
        ledger.reserve([EVENT], **place())
        settle(ledger)
        second = ledger.reserve([EVENT], **place(2))
        ledger.reserve([EVENT], **place(3))
        ledger.void(second)
    forged = forge(path.read_bytes(), index, lambda entry: entry.update(change), KEY, chain=True)
    require_invalid(path, forged, f"entry {index}: .*{reason}")


def test_an_entry_derives_only_from_entries_before_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with open_ledger(path) as ledger:
        before = channel(mechanism="post-processing", derived_from=("entry:" + "a" * 64,))
        with pytest.raises(LedgerInvalid, match="no paid release before it"):
            settle(ledger, channels=[before])
        settle(ledger)
        settle(ledger, channels=[channel(mechanism="post-processing", derived_from=(f"entry:{ledger.head}",))])
    assert len(read_ledger(path, KEY.public_hex)) == 2


def test_canonical_form_is_kept_by_every_entry(content: bytes) -> None:
    for line in content.splitlines():
        record = json.loads(line)
        assert canonical_bytes(parse_entry(record["entry"]).model_dump(mode="json")) == canonical_bytes(record["entry"])


def test_a_ledger_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        read_ledger(tmp_path / "absent.jsonl")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Ledger.open(tmp_path / "file" / "ledger.jsonl", "alpha", KEY, lambda: NOW)
    with pytest.raises(StorageError):
        Ledger.open(tmp_path, "alpha", KEY, lambda: NOW)
