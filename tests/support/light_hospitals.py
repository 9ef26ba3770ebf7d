"""Hospitals that start in a moment, to be killed many times: forked from one process that has imported everything.

A hospital here is a real process with the real folder, vault, ledger, gate, agent and client; only the method is
:class:`NoiseOnly`, which needs no torch. Run as a program this is the process they are forked from. It takes one JSON
object a line and answers each with one line:

    {"start": NAME, "folder": DIR, "plan": FILE, "address": HOST:PORT}    -> {}
    {"kill": NAME, "stage": STAGE, "round": N, "looks": K}                -> {"killed": bool}
    {"wait": NAME}                                                        -> {"code": exit code}

``kill`` waits until the hospital is seen at a stage of a round, or if it has passed that already, at the next one it
reaches; then it looks at its files K more times, as fast as it can, and sends SIGKILL. A hospital that goes on to the
next round meanwhile is killed at once. When this process ends, its hospitals end with it.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from secure_fedhelp.errors import StudyEnded
from secure_fedhelp.hospital.agent import Agent
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.preparation import know_patients, patient_book, prepare_membership, prepare_records
from secure_fedhelp.identity.signing import ED25519
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import DpSgd, paid, planned_events
from secure_fedhelp.privacy.noise import SystemNoise
from secure_fedhelp.privacy.release import PrivateOutput, ReleaseGate
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan, load_plan
from secure_fedhelp.wire.client import CoordinatorClient

#: What can be seen of a hospital's round from outside, in the order in which it happens.
STAGES: Final = "starting", "connected", "reserved", "spooled", "released", "encrypted", "acknowledged", "absorbed"


class NoiseOnly:
    """DP-SGD on a model whose gradient is always zero: what comes out is its noise, and all of it may leave."""

    def __init__(self, plan: StudyPlan, hospital: str) -> None:
        self._plan, self._hospital, self._noise = plan, hospital, SystemNoise()
        self._base = np.zeros(plan.channels[0].length)

    def contribute(self, round_number: int) -> PrivateOutput:
        (event,) = planned_events(self._plan, self._hospital, round_number)
        assert isinstance(event, DpSgd)
        patients = self._plan.hospital(self._hospital).nominal_patients
        step = self._plan.learning.private_learning_rate / (event.sampling_rate * patients)
        deviation = step * event.noise_multiplier * event.clipping_norm * math.sqrt(event.steps)
        update = self._noise.normal(len(self._base), deviation)
        channels = {c.name: np.resize(np.tanh(self._base + update), c.length) for c in self._plan.channels}
        proofs = {name: Proof.of("post-processing", "event:0", "public:plan") for name in channels}
        return PrivateOutput(
            channels=channels | {"model-update": update},
            events=(event,),
            proofs=proofs | {"model-update": Proof.of("dp-sgd", "event:0", "public:plan")},
            noise_source=self._noise.name,
        )

    def absorb(self, round_number: int, means: dict[str, Vector]) -> None:
        self._base = self._base + means["model-update"]

    def save(self) -> bytes:
        return self._base.tobytes()

    def load(self, data: bytes) -> None:
        self._base = np.frombuffer(data)


def take_part(root: Path, plan_path: Path, address: str, say: Callable[[str], None]) -> None:
    """As hospital/taking_part.py, with the light method and without what comes after the study."""
    member = prepare_membership(root, plan_path, time.time())
    name, plan = member.config.name, member.plan
    client = CoordinatorClient(address, member.credentials, plan.consortium, largest_roster=len(plan.hospitals) + 1)
    with Ledger.open(member.ledger_path, name, member.signing.of(ED25519), time.time) as ledger:
        budget = know_patients(member, prepare_records(member), patient_book(member, ledger))
        gate = ReleaseGate(ledger, plan, name, budget)
        agent = Agent(
            plan=plan,
            policy=member.policy,
            hospital=name,
            card=member.card,
            credentials=member.credentials,
            signing=member.signing,
            sealing=member.sealing,
            vault=member.vault,
            ledger=ledger,
            gate=gate,
            method=NoiseOnly(plan, name),
            coordinator=client,
            clock=time.time,
            progress=lambda what, details: say(f"{what} {details}"),
        )
        try:
            agent.run()
        except StudyEnded:
            gate.give_back()
            raise
        gate.give_back()
        client.close()


# --- the test's side --------------------------------------------------------------------------------------------------


class Hospitals:
    """The process that hospitals are forked from, and what a test asks of it. A context manager."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
            )

    def start(self, name: str, folder: Path, plan: Path, address: str) -> None:
        self._ask({"start": name, "folder": str(folder), "plan": str(plan), "address": address})

    def kill(self, name: str, round_number: int, stage: str, looks: int) -> bool:
        """Whether it died of the signal, and had not ended before."""
        return bool(self._ask({"kill": name, "round": round_number, "stage": stage, "looks": looks})["killed"])

    def wait(self, name: str) -> int:
        return int(self._ask({"wait": name})["code"])

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the hospitals' process is gone: see its log"
        return dict(json.loads(answer))

    def __enter__(self) -> Hospitals:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


# --- the process itself -----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One hospital as its parent sees it: its process and its files."""

    pid: int
    folder: HospitalFolder
    log: Path
    code: int | None = None

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def at(self, stage: str, number: int) -> bool:
        """Whether a stage of a round has been reached. Every round leaves two lines in the ledger."""
        state = self.folder.state / f"round-{number:05d}-"
        match stage:
            case "starting":
                return True
            case "connected":
                return b"joined" in self.log.read_bytes()
            case "reserved":
                return self._lines() > 2 * number
            case "spooled":
                return Path(f"{state}values").exists()
            case "released":
                return self._lines() > 2 * number + 1
            case "encrypted":
                return Path(f"{state}header").exists()
            case "acknowledged":
                return Path(f"{state}acknowledged-0").exists()
            case "absorbed":
                return Path(f"{state}header").exists() and not Path(f"{state}body").exists()
        raise ValueError(stage)

    def _lines(self) -> int:
        return self.folder.ledger.read_bytes().count(b"\n") if self.folder.ledger.exists() else 0


def _start(question: dict[str, Any]) -> Seen:
    folder = HospitalFolder(Path(question["folder"]))
    log = folder.root / "log.txt"
    log.write_bytes(b"")
    pid = os.fork()
    if pid:
        return Seen(pid, folder, log)
    code = 70
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no hospital is left behind
        for number in (0, 1, 2):
            os.dup2(os.open(log if number else os.devnull, os.O_RDWR | os.O_APPEND), number)
        take_part(folder.root, Path(question["plan"]), question["address"], lambda line: print(line, flush=True))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kill(hospital: Seen, stage: str, number: int, looks: int) -> bool:
    ahead = (s for s in STAGES[STAGES.index(stage) :] if s != "starting" and not hospital.at(s, number))
    wanted = "starting" if stage == "starting" else next(ahead, "starting")
    while not hospital.at(wanted, number) and not hospital.ended():
        time.sleep(0.0005)  # leaves the processor to the others
    for _ in range(looks):
        if hospital.at("reserved", number + 1):
            break
    if not hospital.ended():
        os.kill(hospital.pid, signal.SIGKILL)
        _, status = os.waitpid(hospital.pid, 0)
        hospital.code = os.waitstatus_to_exitcode(status)
    return hospital.code == -signal.SIGKILL


def _warm(plan: StudyPlan) -> None:
    """What every hospital would compute first, so that the children find it done: the epsilon of every round."""
    for tier in {h.tier: h.name for h in plan.hospitals}.values():
        privacy, events = plan.privacy_of(tier), []
        for number in range(plan.study.rounds):
            events += paid(planned_events(plan, tier, number))
            epsilon(events, privacy.delta)


def serve() -> None:
    """Answer questions until the test is gone."""
    hospitals: dict[str, Seen] = {}
    warmed = False
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, object] = {}
        if "start" in question:
            if not warmed:
                _warm(load_plan(Path(question["plan"])))
                warmed = True
            hospitals[question["start"]] = _start(question)
        elif "kill" in question:
            hospital = hospitals[question["kill"]]
            answer["killed"] = _kill(hospital, question["stage"], question["round"], question["looks"])
        else:
            hospital = hospitals[question["wait"]]
            while not hospital.ended():
                time.sleep(0.01)
            answer["code"] = hospital.code
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    assert Cipher, "imported here, once for all"
    serve()
