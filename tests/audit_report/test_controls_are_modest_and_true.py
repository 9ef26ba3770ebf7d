"""No row says that a law is complied with, each names what remains, and every test it points to exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from runs import Run
from stories import LATER

from secure_fedhelp.audit.report import texts as texts_module
from secure_fedhelp.audit.report.gather import gather
from secure_fedhelp.audit.report.limits import GROUPS
from secure_fedhelp.audit.report.model import AuditReport
from secure_fedhelp.audit.report.sources import Inputs
from secure_fedhelp.audit.report.texts import Texts, texts
from secure_fedhelp.study.plan import StudyPlan, parse_plan

TESTS = Path(__file__).resolve().parents[1]


def known_tests() -> set[str]:
    return {
        f"tests/{path.relative_to(TESTS)}::{node.name}"
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


def test_every_test_that_is_named_exists(report: AuditReport) -> None:
    known = known_tests()
    assert [t.name for t in report.tests if t.name not in known] == []
    assert len(report.tests) == len({t.name for t in report.tests}) >= 20


def test_nothing_claims_to_comply(report: AuditReport) -> None:
    words = [f"{c.supports} {c.remains}" for f in report.frameworks for c in f.controls]
    words += [f.note for f in report.frameworks] + [one.text for one in report.limits]
    for text in words:
        assert not re.search(r"\b(comply|complies|compliant|certif(y|ied)|ensures?|anonym)", text.lower()), text
        assert not re.search(r"\bguarantees? (that|compliance)", text.lower()), text


@pytest.mark.parametrize(
    ("framework", "references"),
    [
        ("HIPAA", ["164.312(a)", "164.312(b)", "164.312(c)", "164.312(d)", "164.312(e)"]),
        (
            "General",
            [
                *("Article 5(1)(b)", "Article 5(1)(c)", "Article 5(1)(f)", "Article 5(2)", "Article 25", "Article 30"),
                *("Article 32(1)(a)", "Article 32(1)(b), (c)", "Article 32(1)(d)", "Article 35(7)"),
            ],
        ),
        ("NIST SP 800-226", ["Top"] * 2 + ["Middle"] * 5 + ["Bottom"]),
    ],
)
def test_the_requirements_are_all_there(framework: str, references: list[str], report: AuditReport) -> None:
    (found,) = [f for f in report.frameworks if f.name.startswith(framework)]
    assert [c.reference for c in found.controls] == references
    assert all(c.remains and c.supports and c.evidence for c in found.controls)


def test_the_pyramid_is_whole(report: AuditReport) -> None:
    nist = " ".join(c.requirement for c in report.frameworks[2].controls).lower()
    for part in ("guarantee", "unit", "algorithms", "trust", "side channels", "access control", "exposure", "security"):
        assert part in nist


def test_a_failed_check_shows_in_every_row_that_rests_on_it(report: AuditReport, damaged: AuditReport) -> None:
    failed = {check.anchor for check, _ in damaged.failed}
    for framework in damaged.frameworks:
        for control in framework.controls:
            rests = {link.anchor for link in control.evidence if link.anchor.startswith("check-")}
            assert control.state == ("failed" if rests & failed else "holds" if rests else "unchecked")
    assert not any(c.state == "failed" for f in report.frameworks for c in f.controls)


def test_without_canaries_regular_testing_is_not_called_checked(told: Run, report: AuditReport, canaries: Path) -> None:
    def state(of: AuditReport) -> str:
        return next(c.state for f in of.frameworks for c in f.controls if c.reference == "Article 32(1)(d)")

    assert state(report) == "unchecked"
    assert state(gather(Inputs(told.root, canary=canaries), LATER)) == "holds"


# -- what is not covered ----------------------------------------------------------------------------------------------


def titles(report: AuditReport) -> set[str]:
    return {one.title for one in report.limits}


def test_limits_come_in_their_groups_and_say_this_plans_figures(told: Run, report: AuditReport) -> None:
    groups = [one.group for one in report.limits]
    assert list(dict.fromkeys(groups)) == list(GROUPS.values())
    assert groups == sorted(groups, key=list(GROUPS.values()).index)
    coalition = next(one.text for one in report.limits if one.title == "Coalitions beyond the plan's number")
    passive, active = told.plan.coalition
    assert f"with {passive} hospital" in coalition
    assert f"lies with {active}." in coalition
    assert "of 1 hospital is not among the files" in " ".join(one.text for one in report.limits)
    assert not [one.text for one in report.limits if "{" in one.text]


@pytest.mark.parametrize(
    ("change", "there", "gone"),
    [
        ({"masks": "none"}, "No masks: the coordinator with any one hospital reads every upload", "Coalitions beyond"),
        ({"decrypted": "closed"}, "Decrypted sums are not sanitised", "The noise on decrypted sums is statistical"),
    ],
)
def test_a_weaker_plan_has_its_own_limits(change: dict[str, Any], there: str, gone: str, told: Run) -> None:
    from secure_fedhelp.audit.report.limits import limits
    from secure_fedhelp.audit.report.sources import Sources
    from secure_fedhelp.audit.verify import Run as Examined

    values = told.plan.model_dump(mode="json")
    values["aggregation"] |= change
    plan: StudyPlan = parse_plan(values)
    found = {one.title for one in limits(Sources(Inputs(told.root), Examined(told.root, plan)))}
    assert there in found
    assert not any(title.startswith(gone) for title in found)


def test_what_the_threat_model_does_not_cover_is_covered_here(report: AuditReport) -> None:
    """Each open point of the threat model has a word here by which an auditor finds it."""
    text = " ".join(f"{one.title} {one.text}" for one in report.limits).lower()
    wanted = ("coalition", "quantum", "shift a sum", "anything within", "end a study", "statistical", "floating-point")
    for word in (*wanted, "side channels", "several hospitals", "taken over", "opens every sum"):
        assert word in text, word


# -- the prose files --------------------------------------------------------------------------------------------------


def test_a_misspelt_key_or_name_in_the_prose_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = texts().model_dump()
    with pytest.raises(ValidationError):
        Texts.model_validate(whole | {"added": 1})
    row = texts().frameworks[0].controls[0]
    for change in (
        {"tests": ("absent",)},
        {"checks": ("absent",)},
        {"sections": ("absent",)},
        {"figures": ("absent",)},
    ):
        book = texts().frameworks[0].model_copy(update={"controls": (row.model_copy(update=change),)})
        spoilt = texts().model_copy(update={"frameworks": (book,)})
        with monkeypatch.context() as patch:
            patch.setattr(texts_module.Texts, "model_validate", lambda values, spoilt=spoilt: spoilt)
            with pytest.raises(ValueError, match="names absent"):
                texts.__wrapped__()
