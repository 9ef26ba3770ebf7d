"""``secure-fedhelp hospital budget`` and ``hospital policy check``: what the privacy officer asks before signing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from secure_fedhelp.cli.plan import print_trial
from secure_fedhelp.cli.unlocking import KeyFile, PassphraseFile

if TYPE_CHECKING:
    from secure_fedhelp.hospital.budget import DataSetBudget
    from secure_fedhelp.hospital.vault import Vault
    from secure_fedhelp.identity.signing import SigningKey

#: Of a study's hash, to name it for good.
_FEWEST_DIGITS = 8

Folder = Annotated[Path, typer.Option("--folder", help="The hospital's own folder.")]

policy_app = typer.Typer(
    help="The site policy: what this hospital allows to leave.\n\n"
    "Example: secure-fedhelp hospital policy check plan.toml --folder st-anna",
    no_args_is_help=True,
)


@policy_app.command("check")
def check(
    plan: Annotated[Path, typer.Argument(help="The study plan that somebody proposes.")],
    folder: Folder,
) -> None:
    """Hold a plan against this hospital's policy: every broken clause at once. Exit code 4 if there is one.

    If none is broken, the plan's networks are tried on made-up inputs; code from outside that the policy names is
    imported for it. Nothing is unlocked, signed or sent.

    Example: secure-fedhelp hospital policy check plan.toml --folder st-anna
    """
    from secure_fedhelp.errors import PolicyViolation
    from secure_fedhelp.hospital.folder import HospitalFolder
    from secure_fedhelp.study.plan import load_plan
    from secure_fedhelp.study.policy import all_clauses

    hospital, study = HospitalFolder(folder), load_plan(plan)
    config, policy = hospital.config(), hospital.policy()
    study.require_listed(config.name)
    clauses = all_clauses(policy, study, config.name, config.foundation_urls)
    table = Table("clause", "the plan asks", "the policy allows", "", box=box.SIMPLE, pad_edge=False)
    for clause in clauses:
        mark = "[bold red]BROKEN[/]" if clause.broken else "[green]ok[/]"
        table.add_row(clause.clause, clause.plan, clause.policy, mark)
    out = Console(highlight=False)
    out.print(f"Plan {study.hash[:16]} of study {study.study.name}, for {config.name}", markup=False)
    out.print(table)
    broken = [clause.clause for clause in clauses if clause.broken]
    if broken:
        raise PolicyViolation(f"the plan breaks {len(broken)} clause(s) of the site policy: {', '.join(broken)}")
    out.print("No clause is broken.", style="green")
    print_trial(out, study)


def budget(
    folder: Folder,
    plan: Annotated[Path | None, typer.Option(help="Also say how many rounds of this plan still fit.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="State epsilon at this delta; default: the smallest in the ledger.")
    ] = None,
    give_back: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY",
            help="Give back what this study (8 or more digits of its hash) has reserved, and delete its keys here.",
        ),
    ] = None,
    key_file: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what is spent, reserved and left of each data set's budget, over all studies in the ledger.

    Nothing is changed, and a running study is not disturbed, except with --give-back: that is for a study that will
    never go on at this hospital, and needs the ledger for itself.

    Example: secure-fedhelp hospital budget --folder st-anna --plan plan.toml
    """
    from secure_fedhelp.hospital.budget import budgets, rounds_left
    from secure_fedhelp.hospital.folder import HospitalFolder
    from secure_fedhelp.hospital.vault import Vault
    from secure_fedhelp.identity.lock import open_lock
    from secure_fedhelp.identity.secret_source import SecretSource
    from secure_fedhelp.identity.signing import SigningKey
    from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook
    from secure_fedhelp.privacy.ledger import read_ledger
    from secure_fedhelp.study.plan import load_plan

    place = HospitalFolder(folder)
    config, policy = place.config(), place.policy()
    unlock = open_lock(folder, SecretSource(key_file, passphrase_file=passphrase_file))
    signing = SigningKey.load(place.keys / "signing.key", unlock)
    path = folder / config.ledger
    out = Console(highlight=False)
    if give_back is not None:
        vault = Vault(place.state, unlock)
        kept = place.result.exists()  # of a study that finished, for its summary
        out.print(_give_back(path, config.name, signing, vault, give_back, values=not kept), markup=False)
    entries = read_ledger(path, signing.public_hex) if path.exists() else []
    study = None if plan is None else load_plan(plan)
    if study is not None:
        study.require_listed(config.name)
    if delta is None:
        delta = min((e.delta for e in entries), default=study.privacy_of(config.name).delta if study else 1e-4)
    book = PatientBook(path, signing.derive(KEY_PURPOSE))
    unlock.wipe()
    rows = budgets(entries, book, delta)
    out.print(f"{config.name}: limit {policy.lifetime:g} for each patient over all studies, at delta {delta:g}")
    if not rows:
        out.print("Nothing has been spent or reserved.")
    else:
        out.print(_table(rows, policy.lifetime))
    if study is not None:
        # A hospital that has not joined yet has entered no patients for it: the last data set is the likely one.
        dataset = next((e.dataset for e in entries if e.study == study.hash), rows[-1].fingerprint if rows else "")
        left = rounds_left(entries, book, dataset, study, config.name, policy)
        out.print(f"{left} more round(s) of study {study.study.name} fit ({study.study.rounds} planned).", markup=False)


def _give_back(path: Path, name: str, signing: SigningKey, vault: Vault, study: str, values: bool) -> str:
    """Void a study's reservations, and if it is this folder's own, end it here: keys, masks and bodies are deleted, and
    the released values too if ``values``."""
    import time

    from secure_fedhelp.errors import InvalidConfiguration
    from secure_fedhelp.privacy.entries import open_reservations
    from secure_fedhelp.privacy.ledger import Ledger

    if len(study) < _FEWEST_DIGITS:
        raise InvalidConfiguration(
            f"--give-back {study!r} is too short to name a study", f"Give {_FEWEST_DIGITS} digits of its hash or more."
        )
    with Ledger.open(path, name, signing, time.time) as ledger:
        found = [e for e in open_reservations(ledger.entries) if e.study.startswith(study)]
        signed = vault.signed_plan() or ""
        own = signed.startswith(study)
        named = {e.study for e in found} | ({signed} if own else set())
        if len(named) != 1:
            waiting = ", ".join(sorted({e.study[:16] for e in open_reservations(ledger.entries)})) or "none"
            raise InvalidConfiguration(
                f"no one study beginning with {study!r} has reserved anything", f"Studies with reservations: {waiting}."
            )
        for entry in found:
            ledger.void(entry)
        if own:
            vault.give_back(values)
    given = f"Gave back {len(found)} reservation(s) of study {named.pop()[:16]}."
    if own:
        return f"{given}\nIts keys in this folder are deleted; it takes part no more."
    return f"{given}\nIts keys, if any are left, are in the folder that took part."


def _table(rows: list[DataSetBudget], limit: float) -> Table:
    from secure_fedhelp.audit.epsilon import shown

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("data set", "patients", "studies", "releases", "spent", "reserved", "of limit"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "data set" else "right")
    for row in rows:
        reserved = f"to {shown(row.committed)}" if row.committed > row.spent else "-"
        patients = "unknown" if row.patients is None else str(row.patients)
        releases = str(row.releases) + (f" ({row.unprotected} without DP)" if row.unprotected else "")
        share = f"{100 * row.committed / limit:.0f} %"
        table.add_row(
            row.fingerprint[:12], patients, str(len(row.studies)), releases, shown(row.spent), reserved, share
        )
    return table
