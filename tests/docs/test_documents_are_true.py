"""What the documents claim exists: tests named in the threat model, commands shown in the README, files linked."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from secure_fedhelp.cli.main import app
from secure_fedhelp.study.plan import StudyPlan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "certs" / "README.md", *(ROOT / "docs").glob("*.md")]


def known_tests() -> set[str]:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


def threats() -> list[list[str]]:
    section = (ROOT / "threat_model.md").read_text(encoding="utf-8").split("## Threats and mitigations")[1]
    rows = [line for line in section.split("##")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_mitigation_names_known_tests() -> None:
    known = known_tests()
    rows = threats()
    assert len(rows) >= 15
    for threat, _, shown in rows:
        named = re.findall(r"`([^`]+)`", shown)
        assert named, f"no test named for: {threat}"
        for name in named:
            assert name in known, f"{threat}: no test {name}"


def commands(path: Path) -> list[str]:
    """Lines of console blocks that call secure-fedhelp, with continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            line = line.removeprefix("$ ").split("  #")[0].strip()
            if line.startswith("secure-fedhelp"):
                found.append(line)
    return found


@pytest.mark.parametrize("line", [c for d in DOCUMENTS for c in commands(d)])
def test_commands_in_the_documents_are_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name="secure-fedhelp")
    while hasattr(command, "commands"):
        name, sub, words = command.resolve_command(context, words)
        assert sub is not None, line
        context = sub.context_class(sub, info_name=name, parent=context)
        command = sub
    # Parsing checks every option and argument; existing files are not asked for, since nothing is run.
    command.make_parser(context).parse_args(list(words))
    required = {p.opts[0] for p in command.params if p.required and p.param_type_name == "option"}
    missing = [o for o in required if o not in words and not any(w.startswith(f"{o}=") for w in words)]
    assert not missing, f"{line}: {missing}"


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "certs" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_project_holds_no_private_key() -> None:
    for path in ROOT.rglob("*"):
        if path.is_file() and not {".git", ".venv", "runs"} & set(path.relative_to(ROOT).parts):
            head = path.read_bytes()[:4096]
            assert b"-----BEGIN " + b"PRIVATE KEY" not in head, path
            assert b"-----BEGIN " + b"EC PRIVATE KEY" not in head, path


def test_the_example_of_the_plan_document_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    noise, length, public = done.stdout.split()
    assert float(noise) > 0.5
    assert int(length) > 1000
    assert len(public) == 64
    assert (tmp_path / "public.npz").exists()


def test_every_section_of_a_plan_is_explained() -> None:
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    for name in StudyPlan.model_fields:
        assert f"`[{name}" in text or f"`[[{name}" in text or f"`{name}`" in text, name
