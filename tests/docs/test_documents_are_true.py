"""What the documents claim exists: tests named in the threat model, commands shown in the README, files linked."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
import typer
from documents import blocks
from plans import example_plan

from secure_fedhelp.cli.demo import Dataset
from secure_fedhelp.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "certs" / "README.md", *(ROOT / "docs").glob("*.md")]
LINKING = sorted({*DOCUMENTS, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})


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


def test_the_demo_says_which_folder_each_data_set_needs() -> None:
    (option,) = [p for p in typer.main.get_command(app).commands["demo"].params if p.name == "data_dir"]
    named = set(re.findall(r"[a-z-]+", option.help.split("with", 1)[1]))
    assert {d.value for d in Dataset} - {"breast-cancer"} <= named


def anchors(path: Path) -> set[str]:
    """What a link may say after ``#``: a heading by GitHub's rule, small letters, no marks, hyphens for spaces."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = found.count(anchor)  # the second of two equal headings is numbered 1
        found += [anchor, f"{anchor}-{again}"] if again else [anchor]
    return set(found)


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"a link to {target}"
        assert not anchor or anchor in anchors(file), f"a link to {target}, and {file.name} has no such heading"


def test_a_heading_is_linked_by_its_words(tmp_path: Path) -> None:
    text = "# The `[a.b]` section: two *locks*\n```\n# no heading\n```\n## Again\n## Again\n"
    (tmp_path / "a.md").write_text(text, encoding="utf-8")
    assert anchors(tmp_path / "a.md") == {"the-ab-section-two-locks", "again", "again-1"}


def test_the_project_holds_no_private_key() -> None:
    for path in ROOT.rglob("*"):
        if path.is_file() and not {".git", ".venv", "runs"} & set(path.relative_to(ROOT).parts):
            head = path.read_bytes()[:4096]
            assert b"-----BEGIN " + b"PRIVATE KEY" not in head, path
            assert b"-----BEGIN " + b"EC PRIVATE KEY" not in head, path


def test_the_example_of_the_plan_document_runs(tmp_path: Path) -> None:
    values, channels = blocks(ROOT / "docs" / "plan.md", "python")

    def said(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    noise, length, public = said(values).split()
    assert float(noise) > 0.5
    assert int(length) > 1000
    assert len(public) == 64
    assert (tmp_path / "public.npz").exists()
    draft = example_plan(method={"name": "prr"}, model={"small": "cnn-8-16", "large": "cnn-8-16"}).model_dump(
        mode="json", exclude_none=True
    )
    draft["channels"] = draft["channels"][:1]
    (tmp_path / "draft.toml").write_text(tomli_w.dumps(draft), encoding="utf-8")
    assert re.findall("name='(.*?)'", said(channels)) == ["spectrum", "class-counts", "prototypes"]
