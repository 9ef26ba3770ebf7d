"""Who the results of a sweep are of: the cohort of each way of dealing, with its counts over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from secure_fedhelp.research.cohort import Cohort, Counts, spans
from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.runs import DEALT_BY, Run


@dataclass(frozen=True)
class Row:
    """One part: a hospital, or another; every cell a count, or ``least to most`` over the seeds."""

    name: str
    tier: str
    patients: str
    records: str
    events: str
    #: Own patients of a hospital in the test part; empty where it has none.
    own: str = ""


@dataclass(frozen=True)
class Table:
    """The parts of all contenders whose data are dealt alike."""

    contenders: tuple[str, ...]
    seeds: int
    #: Of the first seed: columns, and who was left out.
    cohort: Cohort
    rows: tuple[Row, ...]

    @property
    def own(self) -> bool:
        """Whether hospitals have patients of their own in the test part."""
        return any(row.own for row in self.rows)


def of(runs: Sequence[Run], results: Iterable[RunResult]) -> list[Table]:
    """One table for each way of dealing that has a result which says whom it is of."""
    by_id = {result.run: result for result in results}
    found: dict[str, dict[int, Cohort]] = {}
    contenders: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.id in by_id and (cohort := by_id[run.id].cohort) is not None:
            key = run.study.model_dump_json(include=DEALT_BY)
            found.setdefault(key, {}).setdefault(run.study.seed, cohort)
            contenders.setdefault(key, {})[run.contender] = None
    return [_table(tuple(contenders[key]), list(by_seed.values())) for key, by_seed in found.items()]


def untrained(results: Iterable[RunResult]) -> list[str]:
    """At which hospitals rivals were not trained, a sentence each, with the seeds."""
    seeds: dict[str, set[int]] = {}
    for result in results:
        for reason in result.untrained:
            seeds.setdefault(reason, set()).add(result.seed)
    return [f"{reason} (seed {', '.join(map(str, sorted(of)))})" for reason, of in seeds.items()]


def home(results: Iterable[RunResult]) -> list[tuple[str, str, str]]:
    """Each hospital that figures on own patients are of, with its own patients and those of each class, over seeds."""
    patients: dict[str, dict[int, dict[str, int]]] = {}
    for result in results:
        for one in result.hospitals:
            if one.home is not None and any(name.startswith("home_") for name in one.metrics):
                patients.setdefault(one.hospital, {})[result.seed] = {"": one.home.patients, **one.home.classes}
    said = []
    for name, by_seed in patients.items():
        counts = spans(list(by_seed.values()))
        said.append((name, counts.pop(""), ", ".join(f"{of} {count}" for of, count in counts.items())))
    return said


def _table(contenders: tuple[str, ...], cohorts: Sequence[Cohort]) -> Table:
    first = cohorts[0]
    rows = []
    for number, one in enumerate(first.hospitals):
        training = [c.hospitals[number].training for c in cohorts if number < len(c.hospitals)]
        own = [c.hospitals[number].test for c in cohorts if number < len(c.hospitals)]
        tested = [counts for counts in own if counts is not None]
        said = f"{_over(tested, lambda c: c.patients)}: {_events(first, tested)}" if tested else ""
        rows.append(_row(first, one.name, one.tier, training, said))
    public = [c.public for c in cohorts if c.public is not None]
    if public:
        rows.append(_row(first, "public", "", public))
    numbers = range(len(first.references))
    rows += [_row(first, "reference", "", [c.references[number] for c in cohorts]) for number in numbers]
    rows.append(_row(first, "test", "", [c.test for c in cohorts]))
    return Table(contenders, len(cohorts), first, tuple(rows))


def _row(cohort: Cohort, name: str, tier: str, counts: Sequence[Counts], own: str = "") -> Row:
    patients, records = _over(counts, lambda c: c.patients), _over(counts, lambda c: c.records)
    return Row(name, tier, patients, records, _events(cohort, counts), own)


def _events(cohort: Cohort, counts: Sequence[Counts]) -> str:
    named = spans([dict(zip(cohort.classes, one.classes, strict=True)) for one in counts])
    return ", ".join(f"{name} {count}" for name, count in named.items())


def _over(counts: Sequence[Counts], value: Callable[[Counts], int]) -> str:
    return spans([{"": value(one)} for one in counts])[""]
