"""FedAvg (McMahan et al., AISTATS 2017) on updates from DP-SGD; warm-started, if the plan has warm steps.

All of it is in learning/averaging.py: the mean update is what the other methods build on.
"""

from __future__ import annotations

from secure_fedhelp.learning.averaging import Averaging


class FedAvg(Averaging):
    """The shared model moves by the cohort's weighted mean update, and nothing else is exchanged."""
