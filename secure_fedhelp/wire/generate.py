"""Make ``wire/generated`` from ``protos``: ``python -m secure_fedhelp.wire.generate [--check]``.

The result is checked in, so that installing needs no compiler; ``--check`` compares it with a fresh one and exits 1
if it is stale. Needs grpcio-tools (a development dependency).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PROTOS = _ROOT / "protos" / "secure_fedhelp" / "v1"
_PACKAGE = "secure_fedhelp/wire/generated"
_INIT = '"""Made by ``python -m secure_fedhelp.wire.generate``; do not edit."""\n'


def generate(root: Path) -> None:
    """Write the generated package below ``root``; raises RuntimeError if the compiler refuses the protos."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # it ships no types

    folder = root / _PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(_INIT, encoding="utf-8")
    # Mapping the proto folder to the package's path makes protoc write imports of that package.
    arguments = ["protoc", f"--proto_path={_PACKAGE}={_PROTOS}"]
    arguments += [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python")]
    arguments += [f"{_PACKAGE}/{path.name}" for path in sorted(_PROTOS.glob("*.proto"))]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed")


def stale_files() -> list[str]:
    """Names of checked-in generated files that differ from freshly made ones, or exist on one side only."""
    with tempfile.TemporaryDirectory() as made:
        generate(Path(made))
        fresh, kept = _contents(Path(made) / _PACKAGE), _contents(_ROOT / _PACKAGE)
    return sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".py", ".pyi")}


def main(arguments: list[str]) -> int:
    """The command: generate, or with ``--check`` compare; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m secure_fedhelp.wire.generate [--check]", file=sys.stderr)
        return 2
    if not arguments:
        generate(_ROOT)
        return 0
    stale = stale_files()
    if stale:
        print(f"stale: {', '.join(stale)}; run: python -m secure_fedhelp.wire.generate", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
