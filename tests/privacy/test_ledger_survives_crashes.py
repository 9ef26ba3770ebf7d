"""No crash, full disk or second process loses an acknowledged entry or leaves a file that does not verify."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW, fixed_key, open_ledger, spend, write_ledger

from secure_fedhelp.errors import LedgerInvalid, LedgerLocked, StorageError
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.ledger import Ledger, read_ledger

SUPPORT = Path(__file__).resolve().parents[1] / "support"
#: Appends for ever; each acknowledged head goes to standard output, as an upload would leave.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import open_ledger, spend
with open_ledger(Path(sys.argv[1])) as ledger:
    print("open", flush=True)
    if sys.argv[3] == "hold":
        sys.stdin.read()
    number = ledger.count
    while True:
        spend(ledger, number)
        number += 1
        print(ledger.count, ledger.head, flush=True)
"""


def start_writer(path: Path, mode: str = "write") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(SUPPORT), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_9_at_random_points_loses_no_acknowledged_entry(tmp_path: Path) -> None:
    path, generator = tmp_path / "ledger.jsonl", random.Random(7)
    for _ in range(6):
        with start_writer(path) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(generator.randrange(1, 40))]
            process.kill()
            seen += process.stdout.readlines()
        acknowledged = [line.split() for line in seen if line.endswith("\n") and line != "open\n"]
        with open_ledger(path) as ledger:
            for entries, head in acknowledged:
                ledger.require_witnessed(int(entries), head)
            # A last entry may be on the disk without its acknowledgement: that spend counts.
            if acknowledged:
                assert int(acknowledged[-1][0]) <= ledger.count
        assert len(read_ledger(path)) == ledger.count


def test_a_line_torn_anywhere_is_cut_off_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    content = write_ledger(path, 3)
    start = content[:-1].rfind(b"\n") + 1
    for end in [*range(start + 1, start + 40), *range(start + 40, len(content) - 1, 61)]:
        path.write_bytes(content[:end])
        with pytest.raises(LedgerInvalid, match="torn"):
            read_ledger(path)
        with open_ledger(path) as ledger:
            assert ledger.count == 2
        assert path.read_bytes() == content[:start]


def test_a_first_line_torn_leaves_an_empty_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(write_ledger(path, 1)[:50])
    with open_ledger(path) as ledger:
        assert ledger.count == 0
        spend(ledger, 0)
    assert len(read_ledger(path)) == 1


def test_a_block_of_zeros_after_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    content = write_ledger(path, 2)
    path.write_bytes(content + bytes(4096))
    with open_ledger(path) as ledger:
        assert ledger.count == 2
    assert path.read_bytes() == content


def test_a_complete_entry_without_its_line_feed_is_kept_because_its_upload_may_have_left(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    content = write_ledger(path, 3)
    path.write_bytes(content[:-1])
    with open_ledger(path) as ledger:
        assert ledger.count == 3
        spend(ledger, 3)
    assert path.read_bytes().startswith(content)
    assert len(read_ledger(path)) == 4


@pytest.mark.parametrize(("hospital", "key"), [("alpha", fixed_key(9)), ("beta", fixed_key())])
def test_a_complete_entry_of_somebody_else_is_neither_adopted_nor_cut_off(
    hospital: str, key: SigningKey, tmp_path: Path
) -> None:
    """Opening with the wrong key or name must not destroy what another has paid for."""
    path = tmp_path / "ledger.jsonl"
    content = write_ledger(path, 1, hospital, key)[:-1]
    path.write_bytes(content)
    with pytest.raises(LedgerInvalid):
        open_ledger(path)
    assert path.read_bytes() == content


# -- a full disk -----------------------------------------------------------------------------------------------------

FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledgers import open_ledger, spend
from secure_fedhelp.errors import StorageError
path = Path(sys.argv[1])
with open_ledger(path) as ledger:
    before, head = path.read_bytes(), ledger.head
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 300):  # nothing, a byte, half a line can still be written
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limit[1]))
        try:
            spend(ledger, 2)
        except StorageError:
            pass
        else:
            raise SystemExit("the write was reported as done")
        assert path.read_bytes() == before and ledger.head == head and ledger.count == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    spend(ledger, 2)
"""


def test_a_full_disk_leaves_the_file_as_it_was_and_the_next_try_goes_on(tmp_path: Path) -> None:
    """The operating system's own limit on a file's size writes what fits and then fails, as a full disk does."""
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, 2)
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path), str(SUPPORT)], check=True)
    assert len(read_ledger(path)) == 3


def refuse(*arguments: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_failed_sync_is_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    content = write_ledger(path, 1)
    with open_ledger(path) as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            with pytest.raises(StorageError, match="cannot write"):
                spend(ledger, 1)
        # The undoing could not be synced either, so this object must not guess what is on the disk.
        with pytest.raises(StorageError, match="could not be undone"):
            spend(ledger, 1)
    assert path.read_bytes() == content
    with open_ledger(path) as ledger:
        spend(ledger, 1)


@pytest.mark.parametrize("call", ["dup", "ftruncate"])
def test_a_disk_that_fails_on_opening_is_named_and_the_lock_given_back(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(write_ledger(path, 1) + b"torn")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(StorageError, match="cannot use"):
            open_ledger(path)
    open_ledger(path).close()


# -- two processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ledger.jsonl"
    with start_writer(path, "hold") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield path
        process.kill()


def test_a_second_process_is_refused(held: Path) -> None:
    with pytest.raises(LedgerLocked, match=str(held)):
        open_ledger(held)


def test_the_same_process_is_refused_too_and_reading_frees_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with open_ledger(path) as ledger:
        spend(ledger, 0)
        read_ledger(path)
        with pytest.raises(LedgerLocked):
            open_ledger(path)
        spend(ledger, 1)
    open_ledger(path).close()


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with start_writer(path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    open_ledger(path).close()


def test_a_closed_ledger_writes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.jsonl")
    ledger.close()
    ledger.close()
    with pytest.raises(StorageError):
        spend(ledger, 0)


def test_a_hundred_entries_open_quickly(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, 100)
    begin = time.process_time()
    Ledger.open(path, "alpha", fixed_key(), lambda: NOW).close()
    assert time.process_time() - begin < 1.0
