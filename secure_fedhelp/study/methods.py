"""The learning methods a plan may name, and the options of each: data only, so that a plan is checked without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secure_fedhelp.study.sections import ImportPath, Strict


class FedAvg(Strict):
    """Federated averaging (McMahan et al., AISTATS 2017): the model moves by the mean update."""

    name: Literal["fedavg"] = "fedavg"


class FedProx(Strict):
    """FedProx (Li et al., MLSys 2020): private steps are also drawn towards the round's common start."""

    name: Literal["fedprox"] = "fedprox"
    #: mu: half this times the squared distance is added to the objective.
    proximal_weight: float = Field(default=0.1, ge=0)


class Ditto(Strict):
    """Ditto (Li et al., ICML 2021): each hospital's own model is drawn towards the shared one."""

    name: Literal["ditto"] = "ditto"
    #: lambda: half this times the squared distance is added to the personal objective.
    proximal_weight: float = Field(default=0.1, ge=0)


class FedHelp(Strict):
    """FedHelp (KDD 2025), behind the one-way valve; each ingredient has its switch."""

    name: Literal["fedhelp"] = "fedhelp"
    #: Exchange the trained models' answers on the public set: the ensemble that everybody distils.
    logits: bool = True
    #: Weight of the ensemble's soft outputs in the public steps.
    ensemble_weight: float = Field(default=1.0, ge=0)
    #: eta: weight of the ranking loss, the only thing that flows from weak to strong.
    ranking_weight: float = Field(default=0.2, ge=0)
    #: k of the ranking loss; 1 for two classes.
    ranking_top: int = Field(default=1, ge=1)
    #: Segmentation: pixels where the weak model gives its first class less probability than this are not ranked. Most
    #: pixels are background, and where the weak model only guesses its order is worth nothing.
    pixel_confidence: float = Field(default=0.8, ge=0, lt=1)
    #: Segmentation: the exchanged answers are means over squares of this many pixels a side, so that their channel is
    #: by its square shorter. It must divide height and width.
    logit_pool: int = Field(default=1, ge=1)
    #: Large model and proxy trained as one jointly clipped module; off means the large model is a pupil.
    twin: bool = False


class Imported(Strict):
    """A method of somebody else's: a class that follows learning/method.py, by its import path.

    It runs inside the hospital. A site policy has to name it before any hospital imports it.
    """

    name: Literal["imported"] = "imported"
    path: ImportPath
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


#: Methods of this project; a policy allows them unless it says otherwise.
BUILT_IN = ("fedavg", "fedprox", "ditto", "fedhelp")
MethodSection = Annotated[FedAvg | FedProx | Ditto | FedHelp | Imported, Field(discriminator="name")]
