"""What neither this report nor what it audits covers. Whoever signs something should read this part first.

The texts are in ``texts/limits.toml``: those without ``when`` hold for every study, the others if this study's plan or
files say so; figures of the plan stand in them in braces.
"""

from __future__ import annotations

from typing import Final

from secure_fedhelp.audit.report.model import Limit
from secure_fedhelp.audit.report.sources import Sources
from secure_fedhelp.audit.report.texts import Condition, Group, texts
from secure_fedhelp.audit.report.words import counted

#: Groups in the order of the page.
GROUPS: Final[dict[Group, str]] = {
    "files": "What files cannot show",
    "others": "Who could still learn or do something",
    "method": "What the mathematics leaves open",
    "law": "What is for people to judge",
}


def limits(found: Sources) -> tuple[Limit, ...]:
    """All limits of this study by group, in the order of the file."""
    holds, facts = _conditions(found), _facts(found)
    return tuple(
        Limit(group=heading, title=one.title, text=one.text.format_map(facts))
        for group, heading in GROUPS.items()
        for one in texts().limits
        if one.group == group and (one.when is None or one.when in holds)
    )


def _conditions(found: Sources) -> set[Condition]:
    holds: set[Condition] = {"canaries given"} if found.canaries else {"no canaries"}
    if found.inputs.ca is None:
        holds.add("authority of the run")
    if found.run is None:
        return holds
    plan = found.run.plan
    holds.add("policies missing" if len(found.run.policies) < len(plan.hospitals) else "policies there")
    if plan.aggregation.masks == "none":
        holds.add("no masks")
    else:
        holds |= {"masks", "classical signatures" if plan.study.signatures == "ed25519" else "hybrid signatures"}
    holds.add("sanitised" if plan.aggregation.decrypted == "sanitised" else "not sanitised")
    return holds


def _facts(found: Sources) -> dict[str, str]:
    if found.run is None:
        return {}
    plan = found.run.plan
    passive, active = plan.coalition
    return {
        "passive": counted(passive, "hospital"),
        "active": str(active),
        "flooding": str(plan.aggregation.flooding_bits),
        "missing": counted(len(plan.hospitals) - len(found.run.policies), "hospital"),
    }
