"""study/reading.py reads files, and nobody else: a reader without a limit, or one that waits for a pipe, shows here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import secure_fedhelp

PACKAGE = Path(secure_fedhelp.__file__).parent

#: Methods and functions that open or read a file by its path, whatever they are called on.
BY_NAME = frozenset(
    {
        *("read_text", "read_bytes", "fdopen", "fromfile", "memmap", "genfromtxt", "loadtxt", "open_memmap"),
        *("dcmread", "read_csv", "connect", "mmap", "LoadImage"),
    }
)
#: What these take may be an open file or bytes in memory, which study/reading.py gave; then they open nothing.
OF_BYTES = frozenset(
    {
        *("np.load", "numpy.load", "torch.load", "zipfile.ZipFile", "Image.open", "csv.reader"),
        *("pq.ParquetFile", "parquet.ParquetFile", "pq.read_table", "parquet.read_table"),
    }
)
#: As ``module.name``: common words that mean a file with these modules only.
BY_MODULE = OF_BYTES | {
    *("os.open", "io.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open", "tarfile.open"),
    *("nibabel.load", "nib.load", "json.load", "tomllib.load", "pickle.load", "joblib.load"),
}

MAY = {
    "study/reading.py": "the reader itself",
    "study/files.py": "writes",
    "audit/report/texts.py": "the package's own texts",
    "cli/main.py": "/dev/null, for a reader that went away",
    "coordinator/journal.py": "SQLite, which reads page by page; made by this coordinator in its own folder, mode 0600",
    "coordinator/spool.py": "bodies as it stored them itself, whose length the header signs; mapped, never read whole",
    "coordinator/transcript_file.py": "appends",
    "hospital/leaving.py": "asks whether another process has locked the ledger",
    "identity/authority.py": "locks its folder",
    "identity/private_files.py": "checks owner and mode of the open file, then its kind; writes",
    "privacy/ledger.py": "locks the file that it appends to, and asks the open file what it is",
    "data/dicom_files.py": "pydicom opens the path that was just looked at",
    "data/dicom_pixels.py": "pydicom opens the path again that dicom_files.py has looked at",
    "research/demo_setup.py": "locks its folder",
    "research/processes.py": "writes logs, reads /proc",
    "research/simulation.py": "appends to a log",
    "research/sweep/sweep.py": "locks its folder",
    "research/bench/coordinator.py": "a benchmark's own child: its log and address",
    "research/bench/memory.py": "a benchmark's own files, /proc",
    "research/bench/settings.py": "/proc",
    "secagg/workers.py": "memory that two processes share, without a name",
    "wire/generate.py": "generated code, for developers",
}


def openings(source: str) -> Iterator[tuple[int, str]]:
    """(line, what is called) of every call that opens or reads a file by its path."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in ("open", *BY_NAME):
            yield node.lineno, function.id
        if not isinstance(function, ast.Attribute):
            continue
        whole = f"{ast.unparse(function.value).rpartition('.')[2]}.{function.attr}"
        if (whole in BY_MODULE and not (whole in OF_BYTES and _no_path(node))) or function.attr in BY_NAME:
            yield node.lineno, whole
        elif function.attr == "open" and _mode(node):
            yield node.lineno, ".open"


def _no_path(call: ast.Call) -> bool:
    """Whether a function's first argument is made in memory or opened before, and so no path."""
    given = call.args[0] if call.args else call
    return isinstance(given, ast.Call) or (isinstance(given, ast.Name) and given.id in ("file", "lines", "raw"))


def _mode(call: ast.Call) -> bool:
    """Whether ``x.open(...)`` is a path's: it has no argument, or a mode or how the text is written."""
    named = {keyword.arg for keyword in call.keywords}
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return not (call.args or call.keywords) or bool({"encoding", "newline", "mode"} & named) or bool(modes)


def found(package: Path) -> dict[str, list[tuple[int, str]]]:
    files = {p: list(openings(p.read_text(encoding="utf-8"))) for p in sorted(package.rglob("*.py"))}
    names = {str(path.relative_to(package)): calls for path, calls in files.items() if calls}
    return {name: calls for name, calls in names.items() if "generated" not in name}


def test_no_other_module_opens_files() -> None:
    others = {name: calls for name, calls in found(PACKAGE).items() if name not in MAY}
    assert others == {}, "read with study/reading.py, by a kind with a limit"


def test_an_exception_that_nothing_needs_is_no_exception() -> None:
    assert sorted(set(MAY) - set(found(PACKAGE))) == []


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open()",
        'path.open("rb")',
        'path.open(encoding="utf-8")',
        "path.read_text()",
        'Path("x").read_bytes()',
        "json.load(path)",
        "np.load(path)",
        "np.load(folder / 'x')",
        "zipfile.ZipFile(path)",
        "pyarrow.parquet.ParquetFile(path)",
        "Image.open(path, formats=['PNG'])",
        "dcmread(path)",
        "pydicom.dcmread(str(path))",
        "os.open(path, os.O_RDONLY)",
        "torch.load(path)",
    ],
)
def test_the_scan_sees(line: str) -> None:
    assert list(openings(line)), line


@pytest.mark.parametrize(
    "line",
    [
        "Ledger.open(path, name, key, clock)",
        "sealing.open(sealed, context)",
        "np.load(io.BytesIO(data), allow_pickle=False)",
        "zipfile.ZipFile(_InPieces(file))",
        "archive.open(members[name])",
        "json.loads(data)",
        "csv.reader(lines)",
    ],
)
def test_the_scan_leaves_alone(line: str) -> None:
    assert not list(openings(line)), line
