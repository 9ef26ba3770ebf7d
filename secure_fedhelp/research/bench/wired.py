"""Our round through a real coordinator: a process of its own, mutual TLS on loopback, journal and bodies on its disk.

All hospitals speak from this process, one after another, each over a connection of its own. The first one's work is
what is timed; of the others only the calls are, because they take the coordinator's time. So the critical path is one
hospital's own work, everything the coordinator and the network between do for all of them, and one download. In a real
round some of it happens at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from secure_fedhelp.errors import TranscriptInvalid
from secure_fedhelp.hospital.contribution import UNMASKED, Masking
from secure_fedhelp.research.bench.coordinator import CoordinatorProcess
from secure_fedhelp.research.bench.material import Material
from secure_fedhelp.research.bench.results import OURS
from secure_fedhelp.research.bench.sealed import masked_body, our_versions
from secure_fedhelp.research.bench.settings import Setting
from secure_fedhelp.research.bench.stopwatch import Round, Stopwatch
from secure_fedhelp.research.bench.study import Site, bench_plan
from secure_fedhelp.research.demo_setup import RunFolder, create_consortium, write_plan
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.packing import pack_body
from secure_fedhelp.secagg.profiles import SEED_BYTES
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.threshold import Masks
from secure_fedhelp.wire.messages import Phase
from secure_fedhelp.wire.transcript import TranscriptEntry


class WiredRounds:
    """Rounds of one study, one a measurement. A context manager that ends the coordinator; the folder stays."""

    def __init__(self, material: Material, masks: Masks, folder: Path, rounds: int) -> None:
        """Certificates, coordinator, joining and key ceremony; ``rounds`` is how often it will be measured."""
        self._material, self._masks = material, masks
        self._run = RunFolder(folder)
        sanitised = material.flooding is not None
        chosen, bound = material.profile.name, material.bound
        self._plan = bench_plan(chosen, masks, material.values, material.names, rounds, bound, sanitised)
        self._number = 0
        write_plan(self._run.plan, self._plan)
        create_consortium(self._run, self._plan, time.time())
        self._sites: list[Site] = []
        self._coordinator = CoordinatorProcess(self._run.coordinator, self._run.plan)
        try:
            for name in material.names:
                self._sites.append(Site(self._run, self._plan, name, self._coordinator.address))
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def setting(self) -> Setting:
        m = self._material
        return Setting(OURS, m.profile.name, self._masks, "grpc", m.values, m.hospitals)

    @property
    def first(self) -> Site:
        """The hospital that is timed."""
        return self._sites[0]

    def measure(self) -> Round:
        watch, number, client = Stopwatch(), self._number, self.first.client
        up, down = client.bytes_up, client.bytes_down
        maskings = self._agree_on_masks(watch, number)
        sent = self._upload_all(watch, number, maskings)
        if self._masks != "none":
            self._reveal(watch, number, sent)
        with watch.stage("coordinator.add" if self._masks == "none" else "coordinator.unmask"):
            self.first.wait_for(lambda state: state.round > number)
        figures = self._open(watch, number, sent[0])
        self._number += 1
        return Round(
            seconds=watch.seconds,
            up_bytes=client.bytes_up - up,
            down_bytes=client.bytes_down - down,
            coordinator_peak_mib=self._coordinator.peak_mib,
            contributions=len(self._material.bodies),
            versions={**our_versions(), "grpcio": version("grpcio")},
            **figures,
        )

    # -- before the clock runs ----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Everybody joins and has the material's key: the maker finds it in its vault, as after a restart."""
        for site in self._sites:
            site.join()
        maker = self.first.wait_for(lambda state: bool(state.maker)).maker
        for site in self._sites:
            site.learn()
        first_maker = next(site for site in self._sites if site.name == maker)
        first_maker.vault.remember_study_key(0, self._material.key.to_bytes())
        for site in [first_maker, *(s for s in self._sites if s is not first_maker)]:
            site.take_key(maker)
            site.use(self._material.key, self._material.cipher)

    # -- a round ------------------------------------------------------------------------------------------------------

    def _agree_on_masks(self, watch: Stopwatch, number: int) -> list[Masking]:
        """Round keys and shares of all hospitals; the masks of each."""
        if self._masks == "none":
            self._wait(Phase.COLLECTING, number)
            return [UNMASKED] * len(self._sites)
        self._wait(Phase.ADVERTISING, number)
        self._all(watch, "upload.agree_on_masks", lambda site: site.masked.advertise(number, 0))
        self._wait(Phase.SHARING, number)
        self._all(watch, "upload.agree_on_masks", lambda site: site.masked.share(number, 0, lambda _: None))
        self._wait(Phase.COLLECTING, number)
        found: list[Masking] = []

        def mask(site: Site) -> None:
            masking = site.masked.mask(number, 0)
            if masking is None:
                raise TranscriptInvalid(f"the round went on without {site.name}")
            found.append(masking)

        self._all(watch, "upload.agree_on_masks", mask)
        return found

    def _upload_all(self, watch: Stopwatch, number: int, maskings: list[Masking]) -> list[str]:
        """SHA-256 of each hospital's body in the order of names."""
        sent = []
        for place, (site, masking) in enumerate(zip(self._sites, maskings, strict=True)):
            body = self._first_body(watch, masking) if place == 0 else self._other_body(place, masking)
            with self._mine(place, watch, "upload.sign"):
                header, signature = site.sign_header(number, body, body[:SEED_BYTES], masking)
            if place == 0:
                with watch.stage("upload.spool"):
                    site.vault.remember_upload(number, header, signature, body)
            with watch.stage("coordinator.receive"):
                site.client.upload(number, header, signature, body)
            sent.append(sha256_hex(body))
        return sent

    def _first_body(self, watch: Stopwatch, masking: Masking) -> bytes:
        material = self._material
        with watch.stage("upload.encrypt"):
            seed, residues = material.cipher.encrypt_residues(material.contributions[0])
        if masking.keys is not None:
            with watch.stage("upload.mask"):
                add_expanded(residues, material.profile, masking.keys.plus, masking.keys.minus)
        with watch.stage("upload.pack"):
            return pack_body(material.profile, seed, residues)

    def _other_body(self, place: int, masking: Masking) -> bytes:
        body = self._material.body(place)
        if masking.keys is None:
            return body
        return masked_body(self._material, body, (masking.keys.plus, masking.keys.minus))

    def _reveal(self, watch: Stopwatch, number: int, sent: list[str]) -> None:
        hashes = dict(zip(self._material.names, sent, strict=True))
        self._wait(Phase.AGREEING, number)
        self._all(watch, "upload.reveal", lambda site: site.masked.agree(number, 0, hashes[site.name]))
        self.first.wait_for(lambda state: state.round > number or state.phase in (Phase.REVEALING, Phase.SUMMING))
        self._all(watch, "upload.reveal", lambda site: site.masked.reveal(number, 0, hashes[site.name]))

    def _open(self, watch: Stopwatch, number: int, sent: str) -> dict[str, Any]:
        site, material = self.first, self._material
        with watch.stage("download.transcript"):
            lines = site.client.transcript(number)
            entry = site.checker.check(lines[0])
        with watch.stage("download.receive"):
            data = site.client.download(number, entry.sum_bytes)
        with watch.stage("download.open"):
            opened = site.open(entry, data, sent)
        self._follow(lines[0], entry)
        mean = opened.means["model-update"]
        released = float(np.abs(mean * material.hospitals - material.truth).max())
        return {
            "max_error": float(np.abs(opened.exact - material.truth).max()),
            "sanitised_error": released if material.flooding is not None else None,
        }

    def _follow(self, line: bytes, entry: TranscriptEntry) -> None:
        """The other hospitals read the transcript too, beside the clock: their next headers name its last line."""
        for site in self._sites[1:]:
            site.checker.check(line)
        for site in self._sites:
            site.vault.forget_rounds_before(entry.round + 1, values=False)
            site.masked.forget(entry.round)

    # -- small steps of all hospitals ---------------------------------------------------------------------------------

    def _all(self, watch: Stopwatch, stage: str, step: Callable[[Site], object]) -> None:
        """One step of each hospital: the first one's own time to ``stage``, everybody's calls to the coordinator."""
        for place, site in enumerate(self._sites):
            calls, start = site.client.call_seconds, time.perf_counter()
            step(site)
            took, called = time.perf_counter() - start, site.client.call_seconds - calls
            if place == 0:
                watch.add(stage, took - called)
            watch.add("coordinator.mask_messages", called)

    @contextmanager
    def _mine(self, place: int, watch: Stopwatch, stage: str) -> Iterator[None]:
        if place != 0:
            yield
            return
        with watch.stage(stage):
            yield

    def _wait(self, phase: Phase, number: int) -> None:
        self.first.wait_for(lambda state: (state.phase, state.round) == (phase, number))

    def close(self) -> None:
        """End the connections and the coordinator."""
        for site in self._sites:
            site.close()
        self._coordinator.stop()

    def __enter__(self) -> WiredRounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
