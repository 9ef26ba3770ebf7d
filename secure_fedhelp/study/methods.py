"""The learning methods a plan may name, and the options of each: data only, so that a plan is checked without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from secure_fedhelp.study.sections import Strict


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
    #: Large model and proxy trained as one jointly clipped module; off means the large model is a pupil.
    twin: bool = False


class PfedNet(Strict):
    """pFedNet (arXiv 2306.14483): shared layers are averaged, personal ones tied to those of similar hospitals."""

    name: Literal["pfednet"] = "pfednet"
    #: Layers that are a hospital's own, as patterns of parameter names; all others are shared.
    personal: tuple[str, ...] = Field(default=("private_head.*", "public_head.*"), min_length=1)
    #: k of the nearest-neighbour graph. With two or more, every neighbourhood has at least three members.
    neighbours: int = Field(default=3, ge=2)
    #: lambda: how strongly neighbours are drawn together. 0: after the first round everybody keeps its own.
    coupling: float = Field(default=0.1, ge=0)
    #: eta: the share of its private steps that a personal part takes; it also scales lambda, as in any proximal step.
    personal_rate: float = Field(default=1.0, gt=0, le=1)
    #: Values of a hospital's sketch, by which similarity is judged.
    sketch_values: int = Field(default=64, ge=1)
    #: gamma of the differentially sparse regulariser. Without ``segments`` it makes each hospital's shared update
    #: sparse; with them, the aggregate that the segments are read off.
    sparsity: float = Field(default=0.0, ge=0)
    #: Upload the shared part as means of public segments, with error feedback.
    segments: bool = False
    #: The most segments, and so the length of the upload that carries them.
    segment_count: int = Field(default=256, ge=1)
    #: With segments: one round in this many, the first included, sends the shared part in full and makes new segments.
    full_every: int = Field(default=5, ge=1)


class Imported(Strict):
    """A method of somebody else's: a class that follows learning/method.py, by its import path.

    It runs inside the hospital. A site policy has to name it before any hospital imports it.
    """

    name: Literal["imported"] = "imported"
    path: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


#: Methods of this project; a policy allows them unless it says otherwise.
BUILT_IN = ("fedavg", "fedprox", "ditto", "fedhelp", "pfednet")
MethodSection = Annotated[FedAvg | FedProx | Ditto | FedHelp | PfedNet | Imported, Field(discriminator="name")]
