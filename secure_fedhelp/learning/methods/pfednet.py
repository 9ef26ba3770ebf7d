"""pFedNet (Zhao, Liu, Liu, He; arXiv 2306.14483): shared layers are averaged, personal ones tied to their neighbours'.

A hospital's round:

1. It starts from the shared base and *its own* personal part z_k: public steps, then private ones by DP-SGD, as in
   FedAvg. The personal part after them is u_k (with eta < 1: the start plus eta times the private movement).
2. It says the shared coordinates' update (``shared-part``); for each hospital i, on a channel of that hospital's own,
   A_ik u_k (``neighbourhood-01`` and so on, numbered in the plan's order); and, in its own slot of ``sketches``, a one
   and a public random projection of u_k.
3. Of the sums, the base moves by the mean update; z_i = sum_k A_ik u_k is one proximal step of the network lasso
   (learning/network_lasso.py), and from the sketches everybody makes the next round's graph and A.

*(ours)*: A is frozen for a round and comes from what is known before it: the u expected if each hospital moves as it
did in the round before, that is the last u's sketch plus the sketch of how far its z went since (measured, this halves
the gap to the exact step). The first round knows no similarity: A_ik is hospital k's share of the plan's weights, so
everybody's head is the weighted mean, as in FedAvg, which also averages the noise. A hospital that is not in a round
has not moved: its last z stands for its u, which all know, so that rows of A still add up to 1.

**What the neighbourhoods tell.** After the first round A is invertible and public, and every hospital decrypts every
channel: n sums of n unknowns, so each hospital can solve for every u_k (and the sketch of u_k stands open in its slot
anyway). That a neighbourhood has at least three members hides nothing from who can invert a matrix. u_k is the output
of DP-SGD, so the patients' guarantee is untouched; but hospitals do see one another's personal parts, one by one,
as they do not see shared ones, and a site policy's ``smallest_cohort`` does not count for them. The coordinator sees
none of it. So these channels are none that a policy allows by default: a hospital that does not want this says no to
``sketches`` and ``neighbourhood-NN`` by name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.method import PUBLIC, Bounds, Said, Site
from secure_fedhelp.learning.models import flatten
from secure_fedhelp.learning.network_lasso import Rows, mixing, nearest_neighbours, sketch_matrix
from secure_fedhelp.learning.partition import Places, Split, expand, segment_starts, with_feedback
from secure_fedhelp.learning.steps import fresh_model
from secure_fedhelp.learning.total_variation import prox_by_layer
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.study import methods
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import ChannelSection

#: A ledger entry names at most 100 channels, and two are not neighbourhoods.
_MOST_HOSPITALS = 98


class PfedNet(Averaging):
    """pFedNet at one hospital; its options are in study/methods.py.

    ``base`` is the shared base with this hospital's own personal part in it, so :meth:`shared_model` is *not* the same
    everywhere: only its shared layers are. Both follow from plan and sums alone.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.options = self.plan.options(methods.PfedNet)
        self.split = _split(self.plan)
        self._require_declared()
        #: Channels that DP-SGD's output travels on as it is; the plan declares them as this method does.
        self._untouched = {c.name for c in self.plan.channels if c.mechanism == "dp-sgd"}
        self.names = [f"neighbourhood-{number:02d}" for number in range(1, len(self.plan.hospitals) + 1)]
        self.me = [h.name for h in self.plan.hospitals].index(site.hospital)
        #: z of every hospital, [n, personal]: known to all, since all decrypt all sums.
        self.heads: Rows = np.tile(self.base[self.split.personal], (len(self.names), 1))
        self._origin = self.heads[0]
        self._projection = sketch_matrix(self.plan.study.seed, len(self._origin), self.options.sketch_values)
        #: Sketches of every hospital's u as expected in the coming round, [n, sketch_values]; None before the first.
        self.expected: Rows | None = None
        #: Segments of the shared part and, with error feedback, what this hospital has not said yet.
        self.starts: Places = np.arange(len(self.split.shared))
        self.kept: Vector = np.zeros(len(self.split.shared))
        self._to_keep: Vector | None = None
        #: The round whose training is in what is kept; that of rounds before it, its own release names.
        self._kept_from: int | None = None

    # -- channels ------------------------------------------------------------------------------------------------------

    @classmethod
    def lengths(cls, plan: StudyPlan) -> dict[str, int | tuple[int, ...]]:
        options, split, hospitals = plan.options(methods.PfedNet), _split(plan), len(plan.hospitals)
        if not 3 <= hospitals <= _MOST_HOSPITALS:
            raise InvalidPlan(f"pfednet is for 3 to {_MOST_HOSPITALS} hospitals, the plan has {hospitals}")
        shared: int | tuple[int, ...] = len(split.shared)
        if options.segments:
            segments = min(options.segment_count, len(split.shared))
            rounds = range(plan.training_rounds)
            shared = tuple(segments if number % options.full_every else len(split.shared) for number in rounds)
        neighbourhoods = {f"neighbourhood-{number:02d}": len(split.personal) for number in range(1, hospitals + 1)}
        return {"shared-part": shared, "sketches": hospitals * (1 + options.sketch_values), **neighbourhoods}

    @classmethod
    def channels(cls, plan: StudyPlan, bounds: Bounds) -> list[ChannelSection]:
        """The shared part is DP-SGD's own output only if nothing was done to it."""
        options = plan.options(methods.PfedNet)
        found = []
        for name, length in cls.lengths(plan).items():
            shared, changed = name == "shared-part", options.segments or options.sparsity > 0
            found.append(
                ChannelSection(
                    name=name,
                    length=length,
                    bound=bounds.sketch if name == "sketches" else bounds.update,
                    mechanism="dp-sgd" if shared and not changed else "post-processing",
                    combine="weighted-mean" if shared else "sum",
                )
            )
        return found

    # -- a round -------------------------------------------------------------------------------------------------------

    def train(self, round_number: int) -> Said:
        split, model = self.split, self.start(round_number)
        start = flatten(model)
        event = self.private_steps(model, round_number)
        trained = flatten(model)
        own = (start + self.options.personal_rate * (trained - start))[split.personal]
        slots = np.zeros((len(self.names), 1 + self.options.sketch_values))
        slots[self.me] = [1.0, *self._sketch(own)]
        weights = self.mix()[:, self.me]
        values = {"shared-part": self._shared_part(round_number, (trained - self.base)[split.shared])}
        values |= {"sketches": slots.ravel()} | {n: w * own for n, w in zip(self.names, weights, strict=True)}
        proofs = {
            name: Proof.of("dp-sgd" if name in self._untouched else "post-processing", "event:0", *PUBLIC)
            for name in values
        }
        # What is left of earlier rounds was paid for there and not sent in full: the proof must name those releases.
        carried = {} if self._kept_from is None else {"shared-part": self._kept_from}
        return Said(values, proofs, (event,), carried)

    def mix(self) -> NDArray[np.float64]:
        """A of the coming round, [n, n], from what all hospitals know."""
        options = self.options
        if self.expected is None:
            weights = np.array([self.plan.weights[h.name] for h in self.plan.hospitals])
            return np.tile(weights / weights.sum(), (len(weights), 1))
        edges = nearest_neighbours(self.expected, options.neighbours)
        return mixing(self.expected, edges, options.personal_rate * options.coupling)

    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        slots = means["sketches"].reshape(len(self.names), -1)
        present = slots[:, 0] > 0.5 * min(1.0, self.plan.channel("sketches").bound)
        self._learn_shared(round_number, means["shared-part"], bool(present[self.me]))
        self._learn_heads(np.stack([means[name] for name in self.names]), slots[:, 1:], present)

    def _learn_heads(self, sums: Rows, sketches: Rows, present: NDArray[np.bool_]) -> None:
        """The proximal step from the neighbourhoods' ``sums`` [n, personal], the hospitals that were away put in."""
        before, mix = self.heads, self.mix()
        if self.expected is None:  # all rows are one: every z is the mean of those present, and so is the u of others
            self.heads = stand_in = np.tile(sums.mean(axis=0) / mix[0, present].sum(), (len(sums), 1))
        else:
            stand_in, self.heads = before, sums + mix[:, ~present] @ before[~present]
        said = np.where(present[:, None], sketches, self._sketch(stand_in))
        # z now + (u - z before): as far again from where it stands now.
        self.expected = said + (self.heads - before) @ self._projection
        self.base = self.split.joined(self.base[self.split.shared], self.heads[self.me])
        self._personal = None

    def _sketch(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The public projection of personal parts [..., personal], counted from the plan's initial weights."""
        return np.asarray((parts - self._origin) @ self._projection)

    # -- the shared part -----------------------------------------------------------------------------------------------

    def _full(self, round_number: int) -> bool:
        return not self.options.segments or round_number % self.options.full_every == 0

    def _segments(self, round_number: int) -> Places:
        return np.arange(len(self.split.shared)) if self._full(round_number) else self.starts

    def _shared_part(self, round_number: int, update: Vector) -> Vector:
        if not self.options.segments:
            return prox_by_layer(update, self.split.shared_layers, self.options.sparsity)
        count, bound = self.plan.lengths(round_number)["shared-part"], self.plan.channel("shared-part").bound
        sent, self._to_keep = with_feedback(update, self.kept, self._segments(round_number), count, bound)
        return sent

    def _learn_shared(self, round_number: int, mean: Vector, was_in: bool) -> None:
        """The base moves; a full round gives the next rounds' segments.

        What was kept moves on only if this hospital was in the sum: so it derives from releases that were paid for, and
        an update that never arrived is lost, as in every method. After a crash between training and here the rest is
        lost too, which costs accuracy and no privacy.
        """
        shared, options = self.split.shared, self.options
        self.base = self.base.copy()
        self.base[shared] += expand(mean, self._segments(round_number), len(shared))
        if options.segments and was_in:
            self.kept = np.zeros(len(shared)) if self._to_keep is None else self._to_keep
            self._kept_from = round_number if self.kept.any() else None
        self._to_keep = None
        if options.segments and self._full(round_number):
            sparse = prox_by_layer(mean, self.split.shared_layers, options.sparsity)
            self.starts = segment_starts(sparse, options.segment_count)

    # -- between rounds ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[np.float64]]:
        found = super().state() | {"heads": self.heads}
        found |= {} if self.expected is None else {"expected": self.expected}
        segments = {"starts": self.starts.astype(np.float64), "kept": self.kept}
        segments["kept-from"] = np.array([] if self._kept_from is None else [self._kept_from], dtype=np.float64)
        return found | (segments if self.options.segments else {})

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        super().restore(state)
        self.heads, self.expected, self._to_keep = state["heads"], state.get("expected"), None
        if self.options.segments:
            self.starts, self.kept = state["starts"].astype(np.int64), state["kept"]
            self._kept_from = next((int(number) for number in state["kept-from"]), None)


def _split(plan: StudyPlan) -> Split:
    return Split.of(fresh_model(plan, plan.model.small), plan.options(methods.PfedNet).personal)
