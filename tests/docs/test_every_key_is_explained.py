"""A key that a plan, a method, a policy or a hospital's file takes is in its document, with its true default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from secure_fedhelp.hospital.folder import HospitalConfig
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.study.sections import Tier

DOCS = Path(__file__).resolve().parents[2] / "docs"
METHODS = get_args(StudyPlan.model_fields["method"].annotation)


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation speaks of, through tuples, dictionaries and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def sections(model: type[BaseModel], place: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section below ``model`` with its place, ``data.columns``; a choice among models (methods) is none."""
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        if len(inner) == 1:
            yield f"{place}{name}", inner[0]
            yield from sections(inner[0], f"{place}{name}.")


def tables(document: str) -> dict[str, list[list[str]]]:
    """The rows of a document's tables by the heading above them; a row begins with a key."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (DOCS / document).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def section_table(document: str, place: str) -> list[list[str]]:
    """The table under the one heading that names the section."""
    names = {f"[{place}]", *(f"[{place}.{tier}]" for tier in get_args(Tier))}
    (rows,) = [rows for heading, rows in tables(document).items() if any(name in heading for name in names)]
    return rows


def literals(annotation: Any) -> set[str]:
    """The words that a key may have, as the document has to show them."""
    if get_origin(annotation) is Literal:
        return {str(value) for value in get_args(annotation)}
    return {word for part in get_args(annotation) for word in literals(part)}


def stands_in(word: str, row: str) -> bool:
    """By itself, in quotes or backticks: ``"mean"`` does not stand in ``"weighted-mean"``."""
    return re.search(rf"[`\"]{re.escape(word)}[`\"]", row) is not None


def require_explained(rows: dict[str, list[str]], fields: dict[str, FieldInfo]) -> None:
    """``rows`` by key: what is a key's type, its default in TOML, and what it does."""
    assert rows.keys() == fields.keys()
    for key, field in fields.items():
        default, row = rows[key][-2].strip("`"), " ".join(rows[key])
        assert rows[key][-1], f"{key}: nothing is said of it"
        known = set() if models_in(field.annotation) else literals(field.annotation)
        missing = [word for word in known if not stands_in(word, row)]
        assert not missing, f"{key} may also be {missing}"
        if field.is_required():
            assert default == "needed", key
        elif field.get_default(call_default_factory=True) is None:
            assert default == "absent", key
        else:
            shown = TypeAdapter(field.annotation).validate_python(tomllib.loads(f"x = {default}")["x"])
            assert shown == field.get_default(call_default_factory=True), key


def by_key(rows: list[list[str]]) -> dict[str, list[str]]:
    found = {row[0].strip("`"): row for row in rows}
    assert len(found) == len(rows), "a key is explained twice"
    return found


@pytest.mark.parametrize(
    ("document", "place", "model"),
    [
        *(("plan.md", place, model) for place, model in sections(StudyPlan, "")),
        *(("hospital.md", place, model) for place, model in sections(HospitalConfig, "")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_key_of_a_section_is_missing(document: str, place: str, model: type[BaseModel]) -> None:
    require_explained(by_key(section_table(document, place)), model.model_fields)


@pytest.mark.parametrize(
    ("document", "heading", "model"),
    [
        ("plan.md", "The sections", StudyPlan),
        ("hospital.md", "`policy.toml`", SitePolicy),
        ("hospital.md", "`hospital.toml`", HospitalConfig),
    ],
    ids=["plan", "policy", "hospital"],
)
def test_no_key_of_a_file_is_missing(document: str, heading: str, model: type[BaseModel]) -> None:
    require_explained(by_key(tables(document)[heading]), model.model_fields)


@pytest.mark.parametrize("options", METHODS, ids=lambda options: str(options.model_fields["name"].default))
def test_no_option_of_a_method_is_missing(options: type[BaseModel]) -> None:
    name = options.model_fields["name"].default
    rows = [row[1:] for row in tables("methods.md")["Options"] if row[0] == f"`{name}`"]
    require_explained(by_key(rows), {key: field for key, field in options.model_fields.items() if key != "name"})


def test_no_options_stand_there_for_a_method_that_is_none() -> None:
    known = {options.model_fields["name"].default for options in METHODS}
    assert {row[0].strip("`") for row in tables("methods.md")["Options"]} <= known
    listed = {row[0].strip("`") for row in tables("methods.md")["The methods, in words and equations"]}
    assert listed == known
