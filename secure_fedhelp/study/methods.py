"""The learning methods a plan may name, and the options of each: data only, so that a plan is checked without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from secure_fedhelp.study.sections import ImportPath, Strict

#: PRR's published studies: rounds in all, and those before prototypes count.
_PAPERS_ROUNDS, _PAPERS_ALIGNED = 50, 15


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
    #: k of the ranking loss. Absent: half of the classes, as in the paper, rounded down, and a plan has that number.
    ranking_top: int | None = Field(default=None, ge=1)
    #: Segmentation: pixels where the weak model gives its first class less probability than this are not ranked. Most
    #: pixels are background, and where the weak model only guesses its order is worth nothing.
    pixel_confidence: float = Field(default=0.8, ge=0, lt=1)
    #: Segmentation: the exchanged answers are means over squares of this many pixels a side, so that their channel is
    #: by its square shorter. It must divide height and width.
    logit_pool: int = Field(default=1, ge=1)
    #: Large model and proxy trained as one jointly clipped module; off means the large model is a pupil.
    twin: bool = False

    def top(self, classes: int) -> int:
        """``ranking_top`` in a study of so many classes."""
        return max(1, classes // 2) if self.ranking_top is None else self.ranking_top


class PfedNet(Strict):
    """pFedNet (arXiv 2306.14483): shared layers are averaged, personal ones tied to those of similar hospitals."""

    name: Literal["pfednet"] = "pfednet"
    #: Layers that are a hospital's own, as patterns of parameter names; all others are shared.
    personal: tuple[str, ...] = Field(default=("private_head.*", "public_head.*"), min_length=1)
    #: k of the nearest-neighbour graph. With two or more, every neighbourhood has at least three members.
    neighbours: int = Field(default=3, ge=2)
    #: lambda: how strongly neighbours are drawn together. 0: after the first round everybody keeps its own. It is worth
    #: choosing: weaker than 1, hospitals are left alone with their noise, and the image studies chose 10.
    coupling: float = Field(default=1.0, ge=0)
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


class ProxyFl(Strict):
    """ProxyFL (Kalra et al., Nature Communications 2023): hospitals exchange proxies and keep private models."""

    name: Literal["proxyfl"] = "proxyfl"
    #: alpha: how much of the private model's loss is what the proxy teaches it; the rest is its own labels'.
    private_share: float = Field(default=0.5, ge=0, le=1)
    #: beta: how much of the proxy's loss is what the private model teaches it. A pupil teaches nothing: for twins.
    proxy_share: float = Field(default=0.5, ge=0, le=1)
    #: Private model and proxy trained as one jointly clipped module; off means that the private model is a pupil.
    twin: bool = False


class Prr(Strict):
    """PRR (MICCAI 2021, IEEE TMI 2022): deputies share low frequencies, personal models stay, classes may be rare."""

    name: Literal["prr"] = "prr"
    #: What of the low frequencies is averaged: the complex coefficients *(ours)*; their amplitudes alone (MICCAI); or
    #: amplitudes and phases, each arithmetically (TMI), which breaks where phases cross +-pi.
    aggregation: Literal["complex", "amplitude", "phase"] = "complex"
    #: L: the shared band's width as a share of each axis, in the first and in the last training round.
    band_start: float = Field(default=0.7, gt=0, le=1)
    band_end: float = Field(default=0.95, gt=0, le=1)
    #: Deputy-enhanced transfer, and its thresholds a1 and a2: a deputy that scores below a1 times the personal model
    #: recovers, one below a2 times exchanges. Off, the personal model learns from own records alone.
    det: bool = True
    recover: float = Field(default=0.7, ge=0, le=1)
    exchange: float = Field(default=0.9, ge=0, le=1)
    #: Parts of a round's local steps; the stage is chosen before each. In the first it is always to recover.
    epochs: int = Field(default=5, ge=1)
    #: Personal model and deputy trained as one jointly clipped module; off means that the personal model is a pupil.
    twin: bool = False
    #: The conjoint prototype-aligned loss, and with it the channels class-counts and prototypes.
    cpa: bool = True
    seesaw_power: float = Field(default=0.8, ge=0)
    #: How little prototypes weigh; at 1 a class whose prototypes point in opposite directions counts ten times, at 3
    #: twice. Absent: 3, and 1 for a segmentation, as in the paper.
    tau: float | None = Field(default=None, ge=1)
    #: Training rounds without weights of prototypes (gamma is 1), as nobody has features worth comparing yet. Absent:
    #: the paper's share, 15 of 50, of the study's rounds, rounded up, and a plan has that number. Where it is no less
    #: than the number of training rounds there are no prototypes.
    aligned_from: int | None = Field(default=None, ge=0)
    #: Compare with a Gaussian draw around the cohort's prototypes instead of with themselves.
    gaussian_prototypes: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Prr:
        if self.band_end < self.band_start:
            raise ValueError("the band cannot shrink: band_end is below band_start")
        if self.exchange < self.recover:
            raise ValueError("exchange is below recover")
        if self.twin and not self.det:
            raise ValueError("a twin is for the deputy-enhanced transfer: det is off")
        return self

    def aligned(self, rounds: int) -> int:
        """``aligned_from`` in a study of so many rounds; without cpa, where nothing reads it, the paper's in all."""
        if self.aligned_from is not None:
            return self.aligned_from
        return -(-_PAPERS_ALIGNED * rounds // _PAPERS_ROUNDS) if self.cpa else _PAPERS_ALIGNED


class Imported(Strict):
    """A method of somebody else's: a class that follows learning/method.py, by its import path.

    It runs inside the hospital. A site policy has to name it before any hospital imports it.
    """

    name: Literal["imported"] = "imported"
    path: ImportPath
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


#: Methods of this project; a policy allows them unless it says otherwise.
BUILT_IN = ("fedavg", "fedprox", "ditto", "fedhelp", "pfednet", "proxyfl", "prr")
MethodSection = Annotated[
    FedAvg | FedProx | Ditto | FedHelp | PfedNet | ProxyFl | Prr | Imported, Field(discriminator="name")
]


def fitted(method: MethodSection, rounds: int, classes: int) -> MethodSection:
    """``method`` as a plan of so many rounds and classes has it: defaults that follow from these as numbers."""
    if isinstance(method, FedHelp):
        return method.model_copy(update={"ranking_top": method.top(classes)})
    if isinstance(method, Prr):
        return method.model_copy(update={"aligned_from": method.aligned(rounds)})
    return method
