"""The one-way valve, read off the source: what touches records cannot reach the wire. Run by ``make check``.

A program of its own, because it is about the package and not part of it, and needs no installed package to run:

    python checks/valve.py [PACKAGE]        prints FILE:LINE: REASON for each violation and exits with 1

1. A module *touches records* if it is in a room of :data:`RECORD_ROOMS`, or imports from :data:`RECORD_SOURCES`. None
   may reach the wire, the coordinator or a network module of Python's, through whatever it imports, inside of
   functions too. :data:`BOTH_ENDS` are the declared exceptions.
2. :data:`ASKING` are the modules in those rooms that do talk, to a foundation model: with them it is the other way
   round. They may import nothing of those rooms but each other and what is public.
3. The steps from values to an accepted upload are named in :data:`ONLY_THERE`: each has its one place.
4. Only the release gate makes a ``Released``.

It guards against mistakes, as the valve itself does: whoever wants to deceive it can (``getattr`` with a made-up name).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RECORD_ROOMS = ("data", "learning", "privacy")
#: Importing from these makes a module of another room touch records. Of ``privacy`` that is what trains alone: the
#: gate, the ledger and the accountant are what the wire's side must know.
RECORD_SOURCES = (
    *("data", "learning", "privacy.training", "privacy.gradients"),
    *("hospital.preparation.StudyRecords", "hospital.preparation.prepare_records"),
)
WIRE_ROOMS = ("wire", "coordinator")
#: Python modules that open connections, ours and the standard library's.
NETWORK = (
    *("grpc", "httpx", "httpcore", "h11", "requests", "urllib3", "aiohttp", "websockets", "paramiko"),
    *("socket", "socketserver", "ssl", "asyncio", "selectors", "http", "urllib.request", "ftplib", "smtplib", "xmlrpc"),
)
#: Imports that cannot be followed, so that nobody could say what they reach.
UNSEEN_IMPORTS = frozenset({"importlib", "importlib.import_module", "runpy", "pkgutil"})
UNSEEN_CALLS = frozenset({"__import__", "exec", "eval"})

#: Talk to a foundation model about public inputs. They see a PublicSet, by type and by a check when they run.
ASKING = (
    *("learning.inference_client", "learning.inference_http", "learning.inference_protocol"),
    *("learning.foundation", "learning.teacher_answers"),
)
#: What those may take from a room of records.
PUBLIC_NAMES = frozenset({"data.records.PublicSet", "data.records.public_hash"})
#: Modules and rooms that touch records and reach the wire, and why each may.
BOTH_ENDS = {
    "hospital.preparation": "loads records, and asks the foundation model about the public set, one after the other",
    "hospital.taking_part": "gives the agent its method, which has the records, and its client, which has none",
    "learning.imported": "imports a method or a model that the site policy has named: code that the hospital chose",
    "research": "runs whole studies on open data, both ends of them",
}


@dataclass(frozen=True)
class Place:
    """Where alone an identifier may be used, as path prefixes, and why."""

    identifiers: tuple[str, ...]
    paths: tuple[str, ...]
    reason: str


ONLY_THERE = (
    Place(
        ("pack_channels",),
        ("study/channel.py", "hospital/contribution.py", "research/"),
        "channels become a vector to upload in hospital/contribution.py, which takes a Released",
    ),
    Place(
        ("encrypt_residues", "cipher.encrypt", "pack_body"),
        ("secagg/", "hospital/contribution.py", "research/bench/"),
        "values become an upload's body in hospital/contribution.py, which takes a Released",
    ),
    Place(
        ("upload",),
        ("wire/client.py", "hospital/agent.py", "research/bench/"),
        "an upload is sent by hospital/agent.py, which makes it from a Released",
    ),
    Place(("_GATE", "_ISSUED"), ("privacy/release.py",), "the release gate's own token"),
)
#: Signing a header is what makes the coordinator take an upload.
HEADER_SIGNERS = ("hospital/contribution.py", "research/bench/")
GATE = "privacy/release.py"


@dataclass(frozen=True, order=True)
class Finding:
    """One violation."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass(frozen=True)
class Import:
    """``name`` is relative to the package (``wire.client``) if it is ours, whole (``grpc``) if not.

    Of ``from a import b`` there are two: ``a.b``, which is ``taken``, and ``a``, which only runs.
    """

    name: str
    line: int
    ours: bool
    taken: bool


@dataclass
class Module:
    """A file of the package: its dotted name below the package, its path, all nodes of its tree, and its imports."""

    name: str
    path: str
    nodes: list[ast.AST]
    imports: list[Import] = field(default_factory=list)


def check(package: Path) -> list[Finding]:
    """Every violation in the package at this folder, in the order of files and lines."""
    modules = read(package)
    findings = [f for module in modules.values() for f in (*_records_reach_out(module, modules), *_asking(module))]
    for module in modules.values():
        findings += [*_places(module), *_header_signers(module), *_released(module)]
    return sorted({*findings, *_stale(modules)})


def read(package: Path) -> dict[str, Module]:
    """All modules of a package by their name below it; generated code is wire code and is left out."""
    modules: dict[str, Module] = {}
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if "generated" in place.parts:
            continue
        parts = place.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        modules[name] = Module(name, str(place), list(ast.walk(tree)))
    for module in modules.values():
        module.imports = list(_imports(module, package.name))
    return modules


def _imports(module: Module, package: str) -> Iterator[Import]:
    """Every import in a file, those inside functions and for type checkers too."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(alias.name, package, node.lineno, True)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = [package, *module.name.split(".")]
                kept = len(above) - node.level + module.path.endswith("__init__.py")
                start = ".".join([*above[:kept], *filter(None, [node.module])])
            yield _import(start, package, node.lineno, False)
            for alias in node.names:
                yield _import(f"{start}.{alias.name}", package, node.lineno, True)


def _import(name: str, package: str, line: int, taken: bool) -> Import:
    ours = name == package or name.startswith(f"{package}.")
    return Import(name.removeprefix(package).removeprefix(".") if ours else name, line, ours, taken)


def _within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


# --- what touches records ---------------------------------------------------------------------------------------------


def _touches_records(module: Module) -> bool:
    if _within(module.name, ASKING):
        return False
    return _within(module.name, RECORD_ROOMS) or any(_takes_records(i) for i in module.imports)


def _takes_records(imported: Import) -> bool:
    """Whether this is something that holds or makes private values, or a module that has it."""
    private = _within(imported.name, RECORD_SOURCES) and not _within(imported.name, ASKING)
    private = private or any(source.startswith(f"{imported.name}.") for source in RECORD_SOURCES)
    return imported.ours and imported.taken and private and imported.name not in PUBLIC_NAMES


def _talks(imported: Import) -> bool:
    if imported.ours:
        return _within(imported.name, (*WIRE_ROOMS, *ASKING))
    return _within(imported.name, NETWORK)


def _records_reach_out(module: Module, modules: dict[str, Module]) -> Iterator[Finding]:
    """Rule 1, one finding for each import through which the wire is reached."""
    if not _touches_records(module) or _within(module.name, tuple(BOTH_ENDS)):
        return
    for imported in module.imports:
        if way := _way(imported, modules):
            yield Finding(module.path, imported.line, f"touches records and reaches the wire: {' > '.join(way)}")
    for node in module.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSEEN_CALLS:
            yield Finding(module.path, node.lineno, f"touches records and calls {node.func.id}: it may do anything")


def _way(imported: Import, modules: dict[str, Module]) -> list[str]:
    """As :func:`_way_out`; what imports by name may reach anything."""
    return [imported.name, "anything"] if imported.name in UNSEEN_IMPORTS else _way_out(imported, modules)


def _way_out(first: Import, modules: dict[str, Module]) -> list[str]:
    """The names from an import to the first that talks, breadth first; empty if there is none.

    Another module that touches records is not followed: it is checked itself, and named once.
    """
    waiting, seen = [(first, [first.name])], {first.name}
    while waiting:
        imported, way = waiting.pop(0)
        if _talks(imported):
            return way
        module = modules.get(imported.name) if imported.ours else None
        if module is None or (_touches_records(module) and not _within(module.name, tuple(BOTH_ENDS))):
            continue
        for following in module.imports:
            if following.name not in seen:
                seen.add(following.name)
                waiting.append((following, [*way, following.name]))
    return []


def _asking(module: Module) -> Iterator[Finding]:
    """Rule 2."""
    if not _within(module.name, ASKING):
        return
    for imported in module.imports:
        private = imported.ours and imported.taken and _within(imported.name, RECORD_ROOMS)
        if private and imported.name not in PUBLIC_NAMES and not _within(imported.name, ASKING):
            reason = f"asks a foundation model and takes {imported.name}, which is not public"
            yield Finding(module.path, imported.line, reason)


def _stale(modules: dict[str, Module]) -> Iterator[Finding]:
    """An exception that nothing needs is a door that somebody forgot to close."""
    for place in BOTH_ENDS:
        members = [m for m in modules.values() if _within(m.name, (place,))]
        if not any(_touches_records(m) and any(_way(i, modules) for i in m.imports) for m in members):
            yield Finding("checks/valve.py", 1, f"{place} is declared in BOTH_ENDS and needs no exception")


# --- from values to an upload -----------------------------------------------------------------------------------------


def _places(module: Module) -> Iterator[Finding]:
    """Rule 3: what may be used in one place only."""
    for node in module.nodes:
        for used, line in _used(node):
            for place in ONLY_THERE:
                if used in place.identifiers and not module.path.startswith(place.paths):
                    yield Finding(module.path, line, f"uses {used}: {place.reason}")


def _used(node: ast.AST) -> list[tuple[str, int]]:
    """Identifiers that a node uses: names and attributes that are read, imports, and those that getattr is given."""
    if isinstance(node, ast.ImportFrom):
        return [(alias.name, node.lineno) for alias in node.names]
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        # Others encrypt too (keys at rest, fingerprints); what matters is the CKKS cipher, and it is called so.
        of_cipher = node.attr == "encrypt" and ast.unparse(node.value).endswith("cipher")
        return [("cipher.encrypt" if of_cipher else node.attr, node.lineno)]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id != "upload":  # a good name for a value
        return [(node.id, node.lineno)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        return [(str(a.value), node.lineno) for a in node.args if isinstance(a, ast.Constant)]
    return []


def _header_signers(module: Module) -> Iterator[Finding]:
    for node in module.nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "sign":
            continue
        for argument in node.args[:1]:
            named = ast.unparse(argument).rpartition(".")[2] in ("HEADER_CONTEXT", "'upload-header'")
            if named and not module.path.startswith(HEADER_SIGNERS):
                yield Finding(module.path, node.lineno, "signs an upload's header: hospital/contribution.py does that")


# --- who makes a Released ---------------------------------------------------------------------------------------------


def _released(module: Module) -> Iterator[Finding]:
    """Rule 4: outside of the gate the class may be named in annotations and in isinstance, and not otherwise."""
    if module.path == GATE:
        return
    harmless = {id(part) for node in module.nodes for place in _naming(node) for part in ast.walk(place)}
    for node in module.nodes:
        lines = []
        if isinstance(node, ast.ImportFrom):
            lines = [node.lineno for a in node.names if a.name == "Released" and a.asname not in (None, "Released")]
        elif isinstance(node, ast.Name | ast.Attribute) and id(node) not in harmless:
            named = node.id if isinstance(node, ast.Name) else node.attr
            lines = [node.lineno] if named == "Released" else []
        yield from (Finding(module.path, line, f"only {GATE} makes a Released") for line in lines)


def _naming(node: ast.AST) -> list[ast.AST]:
    """Parts of a node that name a class without making one of it."""
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.arg | ast.AnnAssign):
        parts = [node.annotation]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parts = [node.returns]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        parts = [*node.args[1:]]
    return [part for part in parts if part is not None]


def main(arguments: list[str]) -> int:
    """Print the findings; 1 if there are any."""
    package = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / "secure_fedhelp"
    if not (package / GATE).is_file():
        print(f"{package} is not the package: it has no {GATE}")
        return 2
    findings = check(package)
    for finding in findings:
        print(finding)
    if not findings:
        print("The valve holds: nothing that touches records reaches the wire, and each step out has its one place.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
