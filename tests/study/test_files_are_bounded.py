"""A file that cannot be of its kind is refused by name, at once and before any parser has it in memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.study import reading
from secure_fedhelp.study.reading import (
    BoundedLines,
    Kind,
    LineTooLong,
    UnfitFile,
    hash_bounded,
    open_bounded,
    parse_json,
    parse_toml,
    read_bounded,
    read_end,
    read_lines,
    require_fit,
)

SMALL = Kind("a small file", 100, 10)
READERS: list[Callable[[Path, Kind], object]] = [
    read_bounded,
    lambda path, kind: list(read_lines(path, kind)),
    hash_bounded,
    read_end,
    require_fit,
    lambda path, kind: open_bounded(path, kind).close(),
]


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("make", "words"),
    [(Path.mkdir, "a folder"), (as_pipe, "a pipe"), (as_socket, "a socket"), (as_device, "a device")],
)
def test_what_is_no_file_is_named_and_never_waited_for(
    read: Callable[[Path, Kind], object], make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "x")
    with pytest.raises(UnfitFile) as caught:
        read(tmp_path / "x", SMALL)
    assert f"it is {words}, no regular file" in caught.value.strerror


@pytest.mark.parametrize("read", READERS)
def test_a_link_to_a_file_is_followed_and_a_broken_one_is_missing(
    read: Callable[[Path, Kind], object], tmp_path: Path
) -> None:
    """Secrets and settings are mounted as links to links in many places."""
    (tmp_path / "file").write_bytes(b"words\n")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "second").symlink_to("link")
    read(tmp_path / "second", SMALL)
    (tmp_path / "file").unlink()
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "second", SMALL)


@pytest.mark.parametrize("read", READERS)
def test_the_limit_itself_is_within(read: Callable[[Path, Kind], object], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123456789\n" * 10)
    read(path, SMALL)
    path.write_bytes(b"123456789\n" * 10 + b"\n")
    with pytest.raises(UnfitFile, match="it has 101 bytes, and a small file has at most 100"):
        read(path, SMALL)


@pytest.mark.parametrize("read", [read_bounded, hash_bounded, lambda path, kind: list(read_lines(path, kind))])
def test_a_file_that_grows_while_it_is_read_is_not_read_on(
    read: Callable[[Path, Kind], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123456789\n" * 10)
    looked_at = reading._require_fit

    def looks_and_grows(found: os.stat_result, kind: Kind) -> None:
        looked_at(found, kind)
        with path.open("ab") as file:
            file.write(b"123456789\n" * 5)
        monkeypatch.setattr(reading, "_require_fit", lambda *_: None)

    monkeypatch.setattr(reading, "_require_fit", looks_and_grows)
    with pytest.raises(UnfitFile, match="at most 100"):
        read(path, SMALL)


def test_a_file_that_does_not_know_its_size_is_read() -> None:
    """Those of /proc say 0."""
    assert read_bounded(Path("/proc/self/stat"), Kind("a status", 10_000)) != b""


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=12), st.booleans())
def test_lines_are_those_of_the_file(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes(content)
    expected = content.splitlines(keepends=True) if b"\r" not in content else None
    longest = max((len(line) for line in content.split(b"\n")), default=0)
    kind = Kind("a file", 1000, 13)
    if longest <= 12:
        found = list(read_lines(path, kind))
        assert b"".join(found) == content
        assert all(line.endswith(b"\n") for line in found[:-1])
        if expected is not None and not {*b"\v\f\x1c\x1d\x1e\x85"} & {*content}:
            assert found == expected


def test_a_line_too_long_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123456789\n" * 3 + b"1234567890\n")
    with pytest.raises(LineTooLong, match="line 4 has more than 10 bytes") as caught:
        list(read_lines(path, SMALL))
    assert caught.value.number == 3


def test_a_record_of_many_lines_is_bounded_as_a_line_is(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1\n" * 30)
    with path.open("rb") as file:
        lines = BoundedLines(file, SMALL, records=True)
        for _ in range(5):
            next(lines)
        with pytest.raises(LineTooLong):
            next(lines)
    with path.open("rb") as file:
        lines = BoundedLines(file, SMALL, records=True)
        for line in lines:
            assert line == b"1\n"
            lines.next_record()


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "[" * 10**6 + "]" * 10**6, "9" * 10**5, "\x00", "{"])
def test_json_that_no_reader_stands_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text.encode())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 10**6, "nested too deeply"),
        ("a = " + "{a=" * 10**5, "nested too deeply"),
        ("a." * 10**6 + "a = 1", "parts"),
        ('"a" . ' * 10**5 + "a = 1", "parts"),
        ("[" + "'a'." * 10**5 + "a]", "parts"),
        ("x = {" + "a." * 10**5 + "a = 1}", "parts"),
        ("a = " + "9" * 10**6, "digits"),
        ("a = 0." + "1" * 10**6, "digits"),
        ("a = " + "1_" * 10**5 + "1", "digits"),
        ("[[a]]\n" * 40_000, "values in one list"),
        ("a = [" + "{}," * 40_000 + "]", "values in one list"),
        ("".join(f"a{i}=1\n" for i in range(40_000)), "values in one list or table"),
    ],
)
def test_toml_that_costs_far_more_than_its_length_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_toml(text.encode())


def test_what_a_plan_may_honestly_hold_is_read() -> None:
    names = "".join(
        f'[[data.columns]]\nname = "gene-{i}"\nkind = "numeric"\ncentre = {i / 7}\nscale = 1.5\n' for i in range(20_000)
    )
    assert len(names) < reading.PLAN.largest
    assert len(parse_toml(names.encode())["data"]["columns"]) == 20_000
    floats = "x = [" + ", ".join(str(i / 7) for i in range(30_000)) + "]"
    assert len(parse_toml(floats.encode())["x"]) == 30_000
    words = 'a.b."c.d" = "' + "1.2.3." * 10 + "..." * 1000 + '" # ' + "x. y z. " * 1000
    assert parse_toml(words.encode())["a"]["b"]["c.d"].startswith("1.2.3")


# --- every kind of file, through whoever reads it --------------------------------------------------------------------

WORST = r"""
import json, os, struct, sys, time
from pathlib import Path

from secure_fedhelp.audit.canary.results import read_results
from secure_fedhelp.audit.report.sources import Inputs, read_sources
from secure_fedhelp.audit.transcript import read_transcript
from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.data.npz import array_names
from secure_fedhelp.data.rows import read_rows
from secure_fedhelp.errors import FedHelpError
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.status import read_status
from secure_fedhelp.identity.issued import read_issued
from secure_fedhelp.identity.private_files import read_private, read_public
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.datasets import PatientBook
from secure_fedhelp.privacy.ledger import Ledger, read_ledger
from secure_fedhelp.research.study_file import load_study
from secure_fedhelp.research.summary import read_summary
from secure_fedhelp.research.teacher import Teacher
from secure_fedhelp.study import reading as r
from secure_fedhelp.study.plan import load_plan
from secure_fedhelp.study.policy import load_policy

folder, plan_file = Path(sys.argv[1]), Path(sys.argv[2])
plan, key = load_plan(plan_file), SigningKey.generate()
GIB = 2**30


def book(path):
    class Seen:
        count, head = 0, "0" * 64
    PatientBook(path.with_name(path.name.removesuffix(".patients")), bytes(32))


def run(path):
    (path.parent / "plan.toml").write_bytes(plan_file.read_bytes())
    verify_run(path.parent, 1.0, b"no authority")
    found = [f for f in verify_run(path.parent, 1.0, b"no authority") if not f.ok]
    report = read_sources(Inputs(path.parent), 1.0)
    raise FedHelpError(str(found[0].detail) + str(len(report.findings)))


READ = {
    "plan": (r.PLAN, "plan.toml", load_plan),
    "policy": (r.SETTINGS, "policy.toml", load_policy),
    "settings": (r.SETTINGS, "hospital.toml", lambda p: HospitalFolder(p.parent).config()),
    "study": (r.STUDY_FILE, "study.toml", load_study),
    "ledger": (r.LEDGER, "ledger.jsonl", read_ledger),
    "own ledger": (r.LEDGER, "own.jsonl", lambda p: Ledger.open(p, "beta", key, lambda: 1.0)),
    "transcript": (r.TRANSCRIPT, "transcript.jsonl", lambda p: read_transcript(p, key.public_hex, {}, plan)),
    "book": (r.PATIENT_BOOK, "l.jsonl.patients", book),
    "status": (r.STATUS, "status.json", lambda p: read_status(p) or (_ for _ in ()).throw(FedHelpError("none"))),
    "canaries": (r.STATUS, "canary.json", read_results),
    "summary": (r.RESULTS, "summary.json", read_summary),
    "issued": (r.ISSUED, "issued.jsonl", read_issued),
    "secret": (r.SECRET, "token", lambda p: (p.chmod(0o600) if p.is_file() else None, read_private(p))),
    "certificate": (r.CERTIFICATE, "ca.crt", read_public),
    "table": (r.TABLE, "records.csv", lambda p: read_rows(p, None, patient=None)),
    "parquet": (r.TABLE, "records.parquet", lambda p: read_rows(p, None, patient=None)),
    "arrays": (r.ARRAYS, "records.npz", array_names),
    "teacher": (r.TEACHER, "teacher.npz", Teacher.load),
}


def high_water():
    # In MB, of this process. What getrusage says begins with the figure of the process that forked it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def sparse(path, size, end=b"", start=b""):
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        if end:
            file.seek(size - len(end))
            file.write(end)


def pipe(path):
    os.mkfifo(path)


def link(path):
    path.symlink_to("/dev/zero")


SHAPES = {
    "too large": lambda p, kind: sparse(p, max(kind.largest + 1, 2 * GIB)),
    "zeros to the limit": lambda p, kind: sparse(p, kind.largest) if kind.largest <= 2**28 or kind.largest_line else 0,
    "a pipe": lambda p, kind: pipe(p),
    "a device": lambda p, kind: link(p),
    "a folder": lambda p, kind: p.mkdir(),
    "brackets": lambda p, kind: p.write_bytes(b"[" * min(kind.largest, 2**22)),
}
MORE = [
    ("ledger", "a first line, and zeros", lambda p: sparse(p, 200 * 2**20, start=b"{}\n")),
    ("table", "quotes without an end", lambda p: p.write_bytes(b'a,b\n' + b'"\n' * 2**21)),
    ("table", "a record without an end", lambda p: p.write_bytes(b'a,b\n' + b'"x\n",' * 2**22)),
    ("parquet", "a footer of a gigabyte", lambda p: sparse(p, 2 * GIB, b"\xff\xff\xff\x3fPAR1", b"PAR1")),
    ("arrays", "members of two gigabytes", lambda p: sparse(
        p, 2 * GIB, struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 2 * GIB - 100, 0, 0))),
]

out = []


def measure(name, shape, path, read):
    start = time.monotonic()
    try:
        read(path)
        said = "TAKEN"
    except FedHelpError as error:
        said = f"{type(error).__name__}: {error.message}"
    peak = high_water()
    out.append((name, shape, round(time.monotonic() - start, 2), peak, said[:300]))


for name, (kind, file, read) in READ.items():
    for shape, make in SHAPES.items():
        (place := folder / f"{name}-{shape}").mkdir()
        make(place / file, kind)
        if os.path.lexists(place / file):
            measure(name, shape, place / file, read)
for name, shape, make in MORE:
    (place := folder / f"{name}-{shape}").mkdir()
    make(place / READ[name][1])
    measure(name, shape, place / READ[name][1], READ[name][2])
beta = plan.hospitals[0].name
for file in (f"hospitals/{beta}/ledger.jsonl", "coordinator/roster.json", "coordinator/transcript.jsonl"):
    (place := folder / file.replace("/", "-")).mkdir()
    (place / file).parent.mkdir(parents=True)
    sparse(place / file, 2 * GIB + 1)
    measure("run", file, place, lambda p: run(p / "x"))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, float, int, str]]:
    """(what, in which shape, seconds, peak of the whole process in MB so far, what was said) of every kind of file."""
    from plans import example_plan

    folder = tmp_path_factory.mktemp("worst")
    (folder / "honest.toml").write_text(tomli_w.dumps(example_plan().model_dump(mode="json", exclude_none=True)))
    done = subprocess.run(
        [sys.executable, "-c", WORST, str(folder), str(folder / "honest.toml")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")},  # else its tracer is what is timed
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(row) for row in json.loads(done.stdout)]  # type: ignore[misc]


def test_every_kind_is_refused_by_name_whatever_stands_in_its_place(
    measured: list[tuple[str, str, float, int, str]],
) -> None:
    assert len(measured) > 90
    taken = [(name, shape) for name, shape, *_, said in measured if said == "TAKEN"]
    only_read = [(name, shape) for name in ("secret", "certificate") for shape in ("zeros to the limit", "brackets")]
    assert taken == only_read, "whoever reads these bytes takes any, and its caller parses them"


def test_no_kind_takes_long_or_much_memory(measured: list[tuple[str, str, float, int, str]]) -> None:
    assert [row for row in measured if row[2] > 5.0] == [], "a second, on a machine that does nothing else"
    assert max(row[3] for row in measured) < 500


def test_what_is_too_large_says_how_large_it_may_be(measured: list[tuple[str, str, float, int, str]]) -> None:
    assert [row for row in measured if row[1] == "too large" and "has at most" not in row[4]] == []
    assert [row for row in measured if row[1] == "a pipe" and "a pipe" not in row[4] and row[0] != "secret"] == []
