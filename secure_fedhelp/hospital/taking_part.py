"""One hospital process from start to end: check everything, run the agent, keep the models, write the results.

In deployment the results stay in the hospital's folder. In research mode (which the site policy must allow) the same
files hold metrics on the plan's evaluation set, beside two local baselines, for the study's summary.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secure_fedhelp.errors import FedHelpError, KeyCeremonyFailed, StorageError, StudyEnded
from secure_fedhelp.hospital.agent import Agent
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.leaving import Farewell, Farewells, farewell
from secure_fedhelp.hospital.preparation import (
    Membership,
    StudyRecords,
    ask_teacher,
    check_accounting,
    know_patients,
    noise_of,
    patient_book,
    prepare_membership,
    prepare_records,
    require_identity,
)
from secure_fedhelp.hospital.status import write_status
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.hospital.world import REAL, World
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import ED25519
from secure_fedhelp.identity.tls import Credentials, load_credentials
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.release import ReleaseGate
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import StudyPlan, load_plan
from secure_fedhelp.study.reading import METRICS, parse_json, read_lines
from secure_fedhelp.wire.address import parse_address
from secure_fedhelp.wire.client import CoordinatorClient

if TYPE_CHECKING:
    from secure_fedhelp.data.loaded import Progress
    from secure_fedhelp.learning.method import Method

#: How long a coordinator may be silent, restarting perhaps, before this hospital gives up (and can be started again).
_PATIENCE_SECONDS = 120.0
#: Prints one line for a person.
Say = Callable[[str], None]


def take_part(
    root: Path,
    plan_path: Path,
    address: str,
    say: Say,
    source: SecretSource = USUAL,
    world: World = REAL,
    progress: Progress | None = None,
) -> None:
    """Take part in a study with the folder ``root``; returns when it has finished. Raises named errors only.

    ``source`` says where the secret comes from that opens the folder; ``progress`` is told of long loads.
    """
    parse_address(address)
    try:
        member = prepare_membership(root, plan_path, world.clock(), source, say)
    except FedHelpError as error:
        _leave_unprepared(root, plan_path, address, error, say, source, world)
        raise
    say(f"plan {member.plan.hash[:16]} of study {member.plan.study.name}: policy, identity and keys are in order")
    checkpoint = member.vault.checkpoint()
    rounds = member.vault.rounds_to_absorb(member.plan.study.rounds)
    if member.folder.result.exists() and checkpoint and checkpoint.rounds == rounds:
        member.vault.forget_study(values=not member.plan.study.keeps_values)  # an earlier version kept the last key
        say(f"this study is finished here: see {member.folder.result} and {member.folder.models}")
        return
    client = _client(address, member.credentials, member.plan, world)
    try:
        with Farewells(client, member.plan.hash, member.ledger_path, say, world.comes_back) as farewells:
            write_status(member.folder.status, "loading data and model", {})
            records = prepare_records(member, progress)
            for line in records.card:
                say(line)
            check_accounting(member)
            method = _method(member, records, world)
            say(f"connecting to the coordinator at {address} (trying for up to {_PATIENCE_SECONDS:g} s)")
            _study(member, records, method, client, say, world, farewells)
    finally:
        client.close()
        member.unlock.wipe()


def _client(address: str, credentials: Credentials, plan: StudyPlan, world: World) -> CoordinatorClient:
    """Nothing is sent yet."""
    return CoordinatorClient(
        address,
        credentials,
        plan.consortium,
        sleep=world.sleep,
        clock=world.clock,
        patience_seconds=_PATIENCE_SECONDS,
        largest_roster=len(plan.hospitals) + 1,
        dial=world.dial,
    )


def _leave_unprepared(
    root: Path, plan_path: Path, address: str, error: FedHelpError, say: Say, source: SecretSource, world: World
) -> None:
    """Say that this hospital does not take part, where it is not even a member yet: its policy refuses the plan.

    Only with a secret that nobody has to be asked for; whatever is wrong with plan or keys, nothing can be said. That
    the keys are another hospital's is wrong with them: by its certificate, that one would leave.
    """
    if farewell(error, world.comes_back) is not Farewell.LEAVE:
        return
    with contextlib.suppress(FedHelpError):
        folder, plan = HospitalFolder(root), load_plan(plan_path)
        unlock = open_lock(root, replace(source, ask=lambda question: None))
        credentials = load_credentials(folder.keys, world.clock(), unlock)
        unlock.wipe()
        require_identity(credentials, plan, folder.config())
        client = _client(address, credentials, plan, world)
        Farewells(client, plan.hash, root / folder.config().ledger, say, world.comes_back).of(error)
        client.close()


def _method(member: Membership, records: StudyRecords, world: World) -> Method:
    teacher = ask_teacher(member, records.public, world)
    from secure_fedhelp.learning.method import Site
    from secure_fedhelp.learning.methods import make_method
    from secure_fedhelp.privacy.training import check_model

    plan, name, noise = member.plan, member.config.name, noise_of(member, _stream(member.vault))
    method = make_method(Site(plan, name, records.private, records.public, teacher, noise, records.held_out))
    check_model(method.trained_privately(plan, method.site.tier), plan.data.input_shape)
    return method


def _study(
    member: Membership,
    records: StudyRecords,
    method: Method,
    client: CoordinatorClient,
    say: Say,
    world: World,
    farewells: Farewells,
) -> None:
    """The study itself, under the ledger's lock."""
    name, clock = member.config.name, world.clock
    # The ledger outlives a study and its suite: it is always signed in Ed25519.
    with Ledger.open(member.ledger_path, name, member.signing.of(ED25519), clock) as ledger:
        # Under the ledger's lock, which guards the book of patients beside it and the folder's state too.
        member.vault.clear_leftovers()
        book = patient_book(member, ledger)
        # The book hears of each release at once: after a crash it must miss what a ledger has lost.
        budget = know_patients(member, records, book)
        gate = ReleaseGate(ledger, member.plan, name, budget, spent=lambda: book.follow(ledger))
        journal = _Journal(member, records, method, gate, say)
        agent = Agent(
            plan=member.plan,
            policy=member.policy,
            hospital=name,
            card=member.card,
            credentials=member.credentials,
            signing=member.signing,
            sealing=member.sealing,
            vault=member.vault,
            ledger=ledger,
            gate=gate,
            method=method,
            coordinator=client,
            clock=clock,
            progress=journal.step,
        )
        try:
            agent.run()
        except (StudyEnded, KeyCeremonyFailed):
            gate.give_back()  # nothing more will come of what was reserved
            raise
        else:
            gate.give_back()
        finally:
            book.follow(ledger)
        farewells.over = True
        journal.finish(client.bytes_up, client.bytes_down)


def _stream(vault: Vault) -> str:
    """What seeded noise of this process is for: one that goes on after a crash must not draw what has left once more.

    That is the noise of the rounds before its checkpoint, and of the next one if its values were kept already.
    """
    checkpoint = vault.checkpoint()
    started = checkpoint.rounds if checkpoint else 0
    values = vault.values(started)
    if values is None:
        return f"from round {started}"
    return f"from round {started} after {sha256_hex(b''.join(values[name].tobytes() for name in sorted(values)))}"


class _Journal:
    """Tells what happens: a printed line, the status file, metrics a round, and the result at the end."""

    def __init__(self, member: Membership, records: StudyRecords, method: Method, gate: ReleaseGate, say: Say) -> None:
        self._member, self._records, self._method, self._gate, self._say = member, records, method, gate, say
        self._status = "contributed"
        self._history: list[dict[str, object]] = self._read_history()
        # Traffic of earlier runs of this process, up to the last round they recorded.
        self._before = {k: int(str(self._history[-1][k])) if self._history else 0 for k in ("bytes_up", "bytes_down")}

    def step(self, what: str, details: dict[str, object]) -> None:
        # Files count rounds from 0, people from 1.
        shown = {k: int(str(v)) + 1 if k == "round" else v for k, v in details.items()}
        self._say(f"{what} {' '.join(f'{k}={_short(v)}' for k, v in shown.items())}".rstrip())
        if what in ("budget exhausted", "left for good"):
            ended = int(str(details["round"]))  # rounds that were paid for; people count them from 1
            self._status = f"budget ended in round {ended}" if ended else "budget spent before round 1"
        if what == "absorbed":
            self._record_round(details)
        write_status(self._member.folder.status, what, details)

    def finish(self, bytes_up: int, bytes_down: int) -> None:
        """Train the models that stay at home, keep them, and write ``result.json``."""
        self._say("training the personal model at home")
        write_status(self._member.folder.status, "personalising", {})
        method, member = self._method, self._member
        failed = next((n for n in range(member.plan.study.rounds) if self._gate.failed(n)), None)
        if failed is not None and self._status == "contributed":
            self._status = f"training failed in round {failed + 1}"
        if not all(bool(p.isfinite().all()) for p in method.personalise().parameters()):
            self._say("the personal model diverged and is of no use: the plan's steps at home are too long for it")
        member.folder.models.mkdir(exist_ok=True, mode=0o700)
        for name, data in method.export_models().items():
            write_atomic(member.folder.models / f"{name}.pt", data, 0o600)
        write_atomic(member.folder.models / "release.json", _release_record(member.plan), 0o600)
        privacy, pooled = member.plan.privacy_of(member.config.name), method.pooled_metrics()
        result: dict[str, object] = {
            "name": member.config.name,
            "tier": member.plan.hospital(member.config.name).tier,
            "patients": self._records.private.n_patients,
            "epsilon": self._gate.epsilon_spent(),
            "delta": privacy.delta,
            "epsilon_budget": privacy.epsilon,
            "bytes_up": self._before["bytes_up"] + bytes_up,
            "bytes_down": self._before["bytes_down"] + bytes_down,
            "status": self._status,
            "history": self._history,
            "pooled_metrics": None if pooled is None else pooled.as_dict(),
            **self._metrics(),
        }
        write_atomic(member.folder.result, json.dumps(result, sort_keys=True, indent=1).encode(), 0o600)
        write_status(member.folder.status, "done", {})
        self._say("done")

    def _metrics(self) -> dict[str, object]:
        test = self._records.test
        if test is None:
            return {"study_model": None, "personal_model": None, "local_only": None, "local_non_private": None}
        found: dict[str, object] = {name: m.as_dict() for name, m in self._method.evaluate(test).items()}
        found |= {"local_only": None, "local_non_private": None}
        if self._member.plan.study.mode == "research" and self._member.config.research_rivals:
            self._say("training the two local baselines (research mode)")
            write_status(self._member.folder.status, "baselines", {})
            found |= self._baselines()
        return found

    def _baselines(self) -> dict[str, object]:
        from secure_fedhelp.learning import baselines
        from secure_fedhelp.learning.evaluation import evaluate

        plan, name, private, test = (
            self._member.plan,
            self._member.config.name,
            self._records.private,
            self._records.test,
        )
        assert test is not None  # noqa: S101 - narrowed by the caller
        models = {
            "local_only": baselines.local_only(plan, name, private, noise_of(self._member, "alone")),
            "local_non_private": baselines.local_non_private(plan, name, private),
        }
        return {rival: evaluate(model, test).as_dict() for rival, model in models.items()}

    def _record_round(self, details: dict[str, object]) -> None:
        row: dict[str, object] = dict(details)
        for key, before in self._before.items():
            row[key] = before + int(str(details[key]))
        if self._records.test is not None:
            row |= self._method.evaluate_shared(self._records.test).as_dict()
        self._history = [h for h in self._history if h["round"] != row["round"]] + [row]
        lines = "".join(json.dumps(h, sort_keys=True) + "\n" for h in self._history)
        write_atomic(self._member.folder.metrics, lines.encode(), 0o600)

    def _read_history(self) -> list[dict[str, object]]:
        path = self._member.folder.metrics
        if not path.exists():
            return []
        try:
            return [parse_json(line) for line in read_lines(path, METRICS)]
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise StorageError(f"cannot read {path}: {said}", "Move it away: it is written anew.") from error


def _release_record(plan: StudyPlan) -> bytes:
    """What lies beside the models: whether each may leave, and the noise that the shared one carries."""
    if plan.aggregation.decrypted == "closed":
        shared: dict[str, object] = {"may_leave": False, "why": "the plan's sums are not sanitised: decrypted = closed"}
    else:
        shared = {"may_leave": True, **plan_flooding(plan, plan_profile(plan)).as_dict()}
    personal = {"may_leave": False, "why": "trained on this hospital's records without noise"}
    record = {"study": plan.hash, "shared.pt": shared, "personal.pt": personal}
    return json.dumps(record, sort_keys=True, indent=1).encode()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
