"""What can be said of a sweep's runs before the first one: whose data cannot be dealt, and who cannot take part.

All seeds are dealt, which takes seconds. Waiting for each run to find it out would take as long as the runs before it,
and a deployed study would wait for the hospital that does not come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from secure_fedhelp.errors import FedHelpError, InvalidPartition
from secure_fedhelp.learning.trial import try_networks
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import Cohort, cohort_of
from secure_fedhelp.research.fitness import advice, require_test_of_classes, unfit_hospitals
from secure_fedhelp.research.own_data import Files, study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.runs import COMMON_RIVALS, DEALT_BY, RIVALS, Run, seeds_of


@dataclass(frozen=True)
class Problem:
    """What is wrong, under which seeds, and for whom: contenders whose data are dealt alike."""

    message: str
    contenders: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def line(self) -> str:
        """One line for a person."""
        many = "seeds" if len(self.seeds) > 1 else "seed"
        return f"{many} {', '.join(map(str, self.seeds))} ({', '.join(self.contenders)}): {self.message}"


@dataclass
class Before:
    """Found before the first run. ``impossible`` are runs by their id, with the words of the error that each gives."""

    #: Of the first seed that can be dealt, and how many seeds there are.
    cohort: Cohort | None = None
    seeds: int = 0
    problems: tuple[Problem, ...] = ()
    impossible: dict[str, str] = field(default_factory=dict)
    #: What can be done about it; empty where nothing is wrong.
    advice: str = ""
    #: Who cannot take part under any of the seeds, and for whom that was said first: a study and its hospitals.
    unfit: dict[str, FedHelpError] = field(default_factory=dict)
    unfit_in: tuple[StudyFile, list[str]] | None = None


def look_ahead(runs: Sequence[Run]) -> Before:
    """Deal the data of all these runs, under every seed.

    Raises what is wrong with a study's data under all of its seeds, and if no run at all is possible, one error that
    names everything. Else what is wrong is for the runs that it concerns.
    """
    found, notes, files = Before(seeds=len(seeds_of(runs))), _Notes(), Files()
    tried = dict[str, FedHelpError | None]()
    for dealings in _by_dealing(runs):
        failed: list[FedHelpError] = []
        for same in dealings:
            try:
                data = study_data(same[0].study, same[0].data_dir, files=files)
                require_test_of_classes(data)
            except FedHelpError as error:
                failed.append(error)
                notes.add(error, same)
                if isinstance(error, InvalidPartition):
                    found.unfit |= dict.fromkeys(error.hospitals, error)
                found.impossible |= {run.id: _words([error]) for run in same}
                continue
            found.cohort = found.cohort or cohort_of(data)
            _judge(same, data, found, notes)
            _try_networks(same, data, found, notes, tried)
        if len(failed) == len(dealings):
            first = failed[0]
            raise first if len(failed) == 1 else type(first)(notes.about(first, [s[0] for s in dealings]), first.hint)
    found.problems = notes.problems()
    if found.unfit_in is not None:  # of all seeds together: leaving out those of one would fail under the next
        found.advice = advice(*found.unfit_in, found.unfit)
    if runs and len(found.impossible) == len(runs):
        lines = "; ".join(problem.line for problem in found.problems)
        raise type(notes.first)(f"no run is possible: {lines}", found.advice or notes.first.hint)
    found.advice = found.advice or (notes.first.hint if found.problems else "")
    return found


def _judge(same: Sequence[Run], data: StudyData, found: Before, notes: _Notes) -> None:
    """Who of these runs, which have one dealing and one seed, can be done at all its hospitals."""
    for run in same:
        unfit = unfit_hospitals(run.study, data)
        if not unfit or run.contender in COMMON_RIVALS:
            continue
        for error in unfit.values():
            notes.add(error, [run])
        found.unfit |= unfit
        found.unfit_in = found.unfit_in or (run.study, list(data.hospitals))
        if run.contender not in RIVALS or len(unfit) == len(data.hospitals):
            found.impossible[run.id] = _words(list(unfit.values()))


def _try_networks(
    same: Sequence[Run], data: StudyData, found: Before, notes: _Notes, tried: dict[str, FedHelpError | None]
) -> None:
    """Whose networks can be trained: each pair of networks and method once, since that is no question of the seed."""
    for run in same:
        if run.contender in RIVALS:
            continue
        key = run.study.model_dump_json(include=DEALT_BY | {"model", "method"})
        if key not in tried:
            try:
                try_networks(study_plan(run.study.model_copy(update={"epsilon": None}), data))
                tried[key] = None
            except FedHelpError as error:
                tried[key] = error
        if (wrong := tried[key]) is not None:
            notes.add(wrong, [run])
            found.impossible.setdefault(run.id, _words([wrong]))


class _Notes:
    """What went wrong, each message once with all seeds and contenders that it is of."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[FedHelpError, dict[str, None], dict[int, None]]] = {}

    def add(self, error: FedHelpError, runs: Sequence[Run]) -> None:
        _, contenders, seeds = self._found.setdefault(error.message, (error, {}, {}))
        for run in runs:
            contenders[run.contender] = None
            seeds[run.study.seed] = None

    @property
    def first(self) -> FedHelpError:
        return next(error for error, _, _ in self._found.values())

    def about(self, first: FedHelpError, runs: Sequence[Run]) -> str:
        """One message for a study whose data cannot be dealt under any seed: its words alone if they are always the
        same."""
        seeds = {run.study.seed for run in runs}
        if seeds <= self._found[first.message][2].keys():
            return first.message
        return "; ".join(problem.line for problem in self.problems() if seeds & set(problem.seeds))

    def problems(self) -> tuple[Problem, ...]:
        return tuple(Problem(message, tuple(c), tuple(sorted(s))) for message, (_, c, s) in self._found.items())


def _words(errors: Sequence[FedHelpError]) -> str:
    return f"{type(errors[0]).__name__}: {'; '.join(error.message for error in errors)}"


def _by_dealing(runs: Sequence[Run]) -> list[list[list[Run]]]:
    """For every way in which the study's data are dealt, and every seed, its runs."""
    found: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        by_seed = found.setdefault(run.study.model_dump_json(include=DEALT_BY), {})
        by_seed.setdefault(run.study.seed, []).append(run)
    return [list(seeds.values()) for seeds in found.values()]
