"""One or two foundation models: the old way of naming one still holds, and the policy has a word about each."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import example_plan

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.hospital.folder import HospitalConfig, HospitalFolder
from secure_fedhelp.study.policy import SitePolicy, all_clauses, broken_clauses

PLAN = example_plan(aggregation__masks="repairing")
BASE = 'name = "beta"\nconsortium = "north"\n'
ONE = 'foundation_url = "https://one.example"\nfoundation_model = "big"\nfoundation_timeout_seconds = 7.0\n'
TWO = """
[[foundations]]
url = "https://one.example"
model = "big"

[[foundations]]
url = "https://two.example"
model = "bigger"
timeout_seconds = 60.0
"""


def config(tmp_path: Path, text: str) -> HospitalConfig:
    (tmp_path / "hospital.toml").write_text(BASE + text, encoding="utf-8")
    return HospitalFolder(tmp_path).config()


def test_one_two_or_none(tmp_path: Path) -> None:
    assert config(tmp_path, "").teachers == ()
    (only,) = config(tmp_path, ONE).teachers
    assert (only.url, only.model, only.timeout_seconds) == ("https://one.example", "big", 7.0)
    assert [(t.model, t.timeout_seconds) for t in config(tmp_path, TWO).teachers] == [("big", 30.0), ("bigger", 60.0)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ONE + TWO, "not both"),
        (TWO.replace("bigger", "big"), "two foundations of one model name"),
        (TWO + '[[foundations]]\nurl = "https://three.example"\nmodel = "third"\n', "at most 2"),
    ],
)
def test_teachers_that_cannot_be_told_apart_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        config(tmp_path, text)


def test_the_policy_must_allow_each(tmp_path: Path) -> None:
    urls = config(tmp_path, TWO).foundation_urls

    def refused(*endpoints: str) -> list[str]:
        broken = broken_clauses(SitePolicy(foundation_endpoints=endpoints), PLAN, "beta", urls)
        assert all(clause.clause == "foundation_endpoints" for clause in broken)
        return [clause.plan for clause in broken]

    assert refused("https://one.example", "https://two.example") == []
    assert refused("https://one.example") == ["https://two.example"]
    assert refused() == ["https://one.example, https://two.example"]
    named = [c.plan for c in all_clauses(SitePolicy(), PLAN, "beta", ()) if c.clause == "foundation_endpoints"]
    assert named == ["none"]
