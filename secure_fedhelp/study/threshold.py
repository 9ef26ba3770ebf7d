"""How many hospitals must agree before a sum is unmasked, and which coalitions that stands. Arithmetic only.

A round has n hospitals of which t must take part to the end (Bonawitz et al., CCS 2017). With the *repairing* threshold
t = floor(2n/3) + 1 up to n - t drop-outs are repaired; with the *strict* one, t = n, none is.

Coalitions, counted in hospitals beside the coordinator:

* A coordinator that follows the protocol needs t shares of a secret that is not meant for it: t - 1 hospitals on its
  side do not have them (section 6.1 there).
* One that lies may show two halves of the honest hospitals two lists of survivors and collect from both. Two groups of
  t among n have 2t - n members in common, so with fewer hospitals than that on its side the groups share an honest
  one, and an honest hospital signs one list only (section 6.2 there).
* No masking protects against n - 1: what is left of the sum without their own parts is one hospital's contribution.

What these coalitions learn is the sum of the honest hospitals that stayed to the end, and nothing more. If n - t of the
honest drop out beside t - 1 colluders, a single one has stayed, and that sum is its contribution; with t - 2 there are
two, whoever leaves. The lying coordinator's figure, which policies go by, has that room already: at least two honest
hospitals are among any t, however it chooses them.

Above FULL_GRAPH members a hospital shares its secrets among randomly chosen neighbours only (secagg/masked/graph.py);
then the figure of the lying coordinator is claimed for both cases.
"""

from __future__ import annotations

from typing import Final, Literal

Masks = Literal["repairing", "strict", "none"]

#: Up to this many members everybody is everybody's neighbour.
FULL_GRAPH: Final = 32


def threshold(masks: Masks, members: int) -> int:
    """t of ``members`` = n hospitals; 1 without masks, where nobody needs to agree on anything."""
    if masks == "none":
        return 1
    return members if masks == "strict" else 2 * members // 3 + 1


def sparse(masks: Masks, members: int) -> bool:
    """Whether the members' graph is sparse. Strict is always full: every share of every secret is needed anyway."""
    return masks == "repairing" and members > FULL_GRAPH


def active_coalition(masks: Masks, members: int) -> int:
    """Largest number of hospitals that, beside a coordinator that lies, cannot open an upload."""
    if masks == "none":
        return 0
    return max(0, min(2 * threshold(masks, members) - members - 1, members - 2))


def passive_coalition(masks: Masks, members: int) -> int:
    """Largest number of hospitals that, beside a coordinator that follows the protocol, cannot open an upload."""
    if sparse(masks, members):
        return active_coalition(masks, members)
    if masks == "none":
        return 0
    return max(0, min(threshold(masks, members) - 1, members - 2))
