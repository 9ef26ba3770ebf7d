"""A study that measures its model on private records: what comes out is right, and no hospital's own figure leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studies import Study, quick_plan, study

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.data.records import Records
from secure_fedhelp.data.tables import load_table, write_table
from secure_fedhelp.errors import InvalidConfiguration, InvalidData, InvalidPlan, TooFewPatients
from secure_fedhelp.hospital.preparation import prepare_membership, prepare_records
from secure_fedhelp.learning.evaluation import evaluate
from secure_fedhelp.learning.measuring import count, pooled
from secure_fedhelp.learning.models import build
from secure_fedhelp.privacy.ledger import read_ledger
from secure_fedhelp.research.demo_setup import write_hospitals, write_plan
from secure_fedhelp.secagg.picker import check_sums
from secure_fedhelp.study.plan import parse_plan
from secure_fedhelp.study.sections import MetricsSection


def measuring(running: Study, **section: Any) -> dict[str, Records]:
    """Make the study one that measures, with twelve patients more at each hospital, set aside; those, by hospital."""
    values = quick_plan(running.data, 3).model_dump(mode="json")
    values["metrics"] = {"bins": 200, **section}
    length = MetricsSection.model_validate(values["metrics"]).length(2)
    values["channels"].append({"name": "metrics", "length": length, "bound": 2.0})
    running.plan = parse_plan(values)
    write_plan(running.run.plan, running.plan)
    write_hospitals(running.run, running.plan, running.data, [])  # their policies allow the plan's channels
    aside = {}
    for place, name in enumerate(running.names):
        root = running.run.hospital(name).root
        aside[name] = running.data.test.take_patients(range(12 * place, 12 * place + 12))
        write_table(root / "data" / "held-out.csv", aside[name], running.plan.data)
        config = root / "hospital.toml"
        config.write_text(config.read_text(encoding="utf-8") + 'held_out = "data/held-out.csv"\n', encoding="utf-8")
    return aside


def finish(running: Study) -> list[dict[str, Any]]:
    running.start_coordinator()
    for name in running.names:
        running.start_thread(name)
    running.join_threads()
    return [json.loads(running.run.hospital(name).result.read_bytes())["pooled_metrics"] for name in running.names]


def test_pooled_counts_are_those_of_all_records_and_cost_no_epsilon(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=3) as running:
        aside = measuring(running, release="pooled")
        found = finish(running)
        assert all(f == found[0] for f in found)
        folder = running.run.hospital(running.names[0])
        model = build(running.plan.model.small, running.plan.data.input_shape, 2, running.plan.study.seed)
        model.load_state_dict(torch.load(folder.models / "shared.pt", weights_only=True))
        together = Records(
            np.concatenate([r.inputs for r in aside.values()]),
            np.concatenate([r.labels for r in aside.values()]),
            tuple(f"{name}-{p}" for name, r in aside.items() for p in r.patients),
        )
        section = running.plan.metrics
        assert section is not None
        assert found[0] == pooled(count(model, together, section, 2) / section.divisor, section, 2).as_dict()
        exact = evaluate(model, together)
        assert found[0]["balanced_accuracy"] == pytest.approx(exact.balanced_accuracy, abs=1e-9)
        assert found[0]["auroc"] == pytest.approx(exact.auroc, abs=0.01), "up to pairs within one of 200 bins"
        entries = read_ledger(folder.ledger)
        last = [entry for entry in entries if entry.kind == "release"][-1]
        assert [event.kind for event in last.events] == ["pooled-exact"]
        assert len(entries) == 6, "three reservations, three releases, nothing left open"
        assert [f for f in verify_run(running.run.root, 0.0) if not f.ok] == []


def test_noised_counts_are_paid_for_by_every_hospital(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=3) as running:
        measuring(running, release="noised", noise_multiplier=30.0)
        found = finish(running)
        assert all(f == found[0] for f in found)
        for name in running.names:
            last = running.ledger(name)[-1]
            assert last["events"] == [{"kind": "gaussian", "noise_multiplier": 30.0, "sensitivity": 3**0.5}]
            proofs = {c["name"]: c["mechanism"] for c in last["channels"]}
            assert proofs == {"metrics": "gaussian"}


def test_records_set_aside_are_named_and_of_other_patients(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=3) as running:
        aside = measuring(running, release="pooled")
        name = running.names[1]
        root = running.run.hospital(name).root
        member = prepare_membership(root, running.run.plan, time.time())
        assert prepare_records(member).patients == {
            *load_table(root / "data" / "records.csv", running.plan.data).patients,
            *aside[name].patients,
        }
        records = load_table(root / "data" / "records.csv", running.plan.data)
        write_table(root / "data" / "held-out.csv", aside[name].take(range(9)), running.plan.data)
        with pytest.raises(TooFewPatients, match="9 patients, 10 are needed"):
            prepare_records(prepare_membership(root, running.run.plan, time.time()))
        write_table(root / "data" / "held-out.csv", records.take(range(12)), running.plan.data)
        with pytest.raises(InvalidData, match=r"held-out\.csv: 12 patient\(s\) are in the training records too"):
            prepare_records(prepare_membership(root, running.run.plan, time.time()))
        config = root / "hospital.toml"
        config.write_text(config.read_text(encoding="utf-8").replace("held_out", "# held_out"), encoding="utf-8")
        with pytest.raises(InvalidConfiguration, match="no held_out records are named"):
            prepare_records(prepare_membership(root, running.run.plan, time.time()))
        assert not (root / "ledger.jsonl").exists()


def test_exact_counts_that_would_not_come_out_whole_are_refused_at_plan_time(tmp_path: Path) -> None:
    with study(tmp_path / "run", rounds=3) as running:
        measuring(running, release="pooled")
        check_sums(running.plan)
        values = running.plan.model_dump(mode="json")
        values["metrics"]["divisor"] = 5000
        with pytest.raises(InvalidPlan, match="do not come out whole"):
            check_sums(parse_plan(values))
        values["metrics"] |= {"release": "noised", "noise_multiplier": 9.0}
        check_sums(parse_plan(values))
