"""The command line asks before it changes anything. Every denial has a positive control."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from workflows import run, runs
from workflows.access import Finding, key_digest, new_api_key, signing_key, verify_audit
from workflows.access.__main__ import main as access_main
from workflows.api import Loop
from workflows.configs import load
from workflows.engine import Engine
from workflows.log import open_store, stored_records

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = load("nano", None, ["deploy.alias=assistant"])
ROLES = {
    "ann": ("operator", "search"),
    "bob": ("viewer", "search"),
    "cat": ("operator", "ads"),
    "dan": ("approver", "search"),
    "eve": ("admin", "search"),
}


class Shell:
    """Runs commands against one storage, as one of the team."""

    def __init__(self, folder: Path) -> None:
        self.storage = str(folder / "storage")
        self.keys = {name: new_api_key() for name in ROLES}
        self.principals = folder / "principals.toml"
        self.principals.write_text(
            "\n".join(
                f'[[principal]]\nkind = "Person"\nid = "{name}"\nroles = ["{role}"]\nteam = "{team}"\n'
                f'api_keys = ["{key_digest(self.keys[name])}"]'
                for name, (role, team) in ROLES.items()
            )
            + '\n[alias.assistant]\nteam = "search"\nprotected = true\n'
        )

    def __call__(self, *command: str, who: str = "", key: str = "", **environment: str) -> tuple[int, str]:
        """Runs a command in this process; exit code and all that it said."""
        mains = {"workflows.run": run.main, "workflows.runs": runs.main, "workflows.access": access_main}
        said = io.StringIO()
        surroundings = self._environment(who, key) | environment
        with patch.dict(os.environ, surroundings, clear=True), redirect_stdout(said), redirect_stderr(said):
            return mains[command[0]]([*command[1:], "--storage", self.storage]), said.getvalue()

    def process(self, *command: str, who: str = "", **environment: str) -> tuple[int, str]:
        """Runs a command as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", *command, "--storage", self.storage],
            cwd=ROOT, env=self._environment(who, "") | environment,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def _environment(self, who: str, key: str) -> dict[str, str]:
        found = {k: v for k, v in os.environ.items() if not k.startswith("EVERLOOP_")}
        if who or key:
            found |= {"EVERLOOP_PRINCIPALS": str(self.principals), "EVERLOOP_API_KEY": key or self.keys[who]}
        return found

    def entries(self) -> list[dict[str, Any]]:
        store = open_store(self.storage)
        logs = sorted({"/".join(info.key.split("/")[:2]) for info in store.list("audit")})
        return [entry for log in logs for record in stored_records(store, log, 0) for entry in record.data["entries"]]

    def findings(self) -> tuple[Finding, ...]:
        key = signing_key(Path(self.storage) / ".state" / "audit.key").public
        return tuple(verify_audit(open_store(self.storage), [key]).findings)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def run_id(shell: Shell) -> str:
    """A run of ann's that nobody drives."""
    return Loop(shell.storage).start_by_hand(CONFIG, run_id="r1", by="Person::ann").run_id


class TestATeam:
    @pytest.mark.parametrize(
        ("verb", "action", "who"),
        [
            (("workflows.runs", "cancel", "r1"), "cancel_run", "bob"),
            (("workflows.runs", "cancel", "r1"), "cancel_run", "cat"),
            (("workflows.runs", "delete", "r1"), "delete_run", "ann"),
            (("workflows.runs", "repair", "r1"), "fork_run", "bob"),
            (("workflows.runs", "resume-all"), "resume_run", "bob"),
            (("workflows.run", "--resume", "r1"), "resume_run", "dan"),
            (("workflows.run", "--fork", "r1", "--from", "tune"), "fork_run", "bob"),
        ],
    )
    def test_a_principal_without_the_right_is_refused_by_name_and_nothing_changes(
        self, verb: tuple[str, ...], action: str, who: str, shell: Shell, run_id: str
    ) -> None:
        before = Engine(shell.storage).view(run_id)
        code, said = shell(*verb, who=who)
        assert code == 2
        assert f"Person::{who} may not {action} Run::r1: no policy permits it" in said
        assert Engine(shell.storage).view(run_id) == before
        assert [(e["principal"], e["action"], e["decision"]) for e in shell.entries()][-1:] == [
            (f"Person::{who}", action, "deny")
        ] or shell.entries()[-1]["action"] == "start_run"
        assert shell.findings() == ()

    def test_an_operator_of_the_team_cancels_and_an_admin_deletes(self, shell: Shell, run_id: str) -> None:
        assert shell("workflows.runs", "cancel", run_id, who="ann")[0] == 0
        assert Engine(shell.storage).view(run_id).status == "cancelled"
        assert shell("workflows.runs", "delete", run_id, who="eve")[0] == 0
        answers = [(e["principal"], e["action"], e["decision"]) for e in shell.entries()]
        assert answers == [("Person::ann", "cancel_run", "allow"), ("Person::eve", "delete_run", "allow")]

    def test_starting_is_for_operators(self, shell: Shell) -> None:
        started = ("workflows.run", "--recipe", "nano", "--set", "deploy.alias=assistant", "--run-id", "new-1")
        started += ("--set", "approval.required=true")
        code, said = shell(*started, who="bob")
        assert (code, "Person::bob may not start_run Run::new-1: no policy permits it" in said) == (2, True)
        assert Engine(shell.storage).list() == []
        # The control stops where Ray would begin; in a process of its own, for this one may be connected already.
        code, said = shell.process(*started, who="ann", RAY_ADDRESS="auto")
        assert code == 1
        assert "RAY_ADDRESS" in said
        assert [found.run_id for found in Engine(shell.storage).list()] == ["new-1"]

    @pytest.mark.parametrize("wanted", [("--run-id", "new-1"), ("--source", "schedule", "--window", "w")])
    def test_a_run_that_could_never_release_is_not_started(self, wanted: tuple[str, ...], shell: Shell) -> None:
        code, said = shell("workflows.run", "--recipe", "nano", "--set", "deploy.alias=assistant", *wanted, who="ann")
        assert code == 2
        assert "approval.required: must be true (it is false), because the alias 'assistant' is protected" in said
        assert Engine(shell.storage).list() == []

    def test_a_fork_that_could_never_release_is_not_started(self, shell: Shell, run_id: str) -> None:
        code, said = shell("workflows.run", "--fork", run_id, "--from", "tune", who="ann")
        assert (code, "approval.required: must be true" in said) == (2, True)
        assert [found.run_id for found in Engine(shell.storage).list()] == [run_id]

    def test_stopping_the_head_is_for_admins(self, shell: Shell) -> None:
        code, said = shell("workflows.run", "--down", who="ann")
        assert (code, "Person::ann may not administer Installation::everloop" in said) == (2, True)
        assert shell("workflows.run", "--down", who="eve")[0] == 0

    def test_looking_asks_nobody_and_writes_nothing(self, shell: Shell, run_id: str) -> None:
        assert shell("workflows.runs", "show", run_id)[0] == 0
        assert shell("workflows.run", "--resume", run_id, "--dry-run")[0] == 0
        assert not (Path(shell.storage) / "audit").exists()

    @pytest.mark.parametrize(
        ("extra", "key", "why"),
        [
            ((), "elk_wrong", "is the key of no principal"),
            (("--as", "Person::eve"), "", "is that of Person::ann"),
        ],
    )
    def test_a_wrong_key_or_anothers_name_is_refused_and_written_down(
        self, extra: tuple[str, ...], key: str, why: str, shell: Shell, run_id: str
    ) -> None:
        code, said = shell("workflows.runs", "cancel", run_id, *extra, who="ann", key=key)
        assert (code, why in said, key and key in said) == (2, True, key and False)
        assert shell.entries()[-1]["event"] == "unauthenticated"
        assert shell("workflows.runs", "cancel", run_id, "--as", "Person::ann", who="ann")[0] == 0

    def test_nobody_decides_in_anothers_name_or_about_their_own_run(self, shell: Shell, run_id: str) -> None:
        code, said = shell("workflows.runs", "approve", run_id, "release", "--by", "eve", who="dan")
        assert (code, "cannot decide as 'eve'" in said) == (2, True)
        Loop(shell.storage).engine.cancel(run_id)
        Loop(shell.storage).start_by_hand(CONFIG, run_id="r2", by="Person::eve")
        code, said = shell("workflows.runs", "approve", "r2", "release", "--by", "eve", who="eve")
        assert (code, "policy four-eyes-approve forbids it" in said) == (2, True)
        # The control passes the policies and meets the run, which does not wait yet.
        code, said = shell("workflows.runs", "approve", "r2", "release", "--by", "dan", who="dan")
        assert (code, "may not" in said) == (2, False)
        assert shell.entries()[-1]["decision"] == "allow"

    @pytest.mark.parametrize("text", ["[[principal]\n", '[alias.a]\nprotected = "yes"\n'])
    def test_a_wrong_directory_stops_every_change(self, text: str, shell: Shell, run_id: str) -> None:
        shell.principals.write_text(text)
        code, said = shell("workflows.runs", "cancel", run_id, who="ann")
        assert (code, str(shell.principals) in said) == (2, True)
        assert Engine(shell.storage).view(run_id).status == "pending"


class TestOneMachine:
    def test_the_owner_of_the_folder_may_and_stands_in_the_audit_log(self, shell: Shell, run_id: str) -> None:
        assert shell("workflows.runs", "cancel", run_id)[0] == 0
        (entry,) = shell.entries()
        assert entry["principal"] == f"Person::{getpass.getuser()}"
        assert entry["policies"] == ["owner-of-local-storage"]

    def test_a_name_that_no_directory_knows_is_refused(self, shell: Shell, run_id: str) -> None:
        code, said = shell("workflows.runs", "cancel", run_id, "--as", "Person::eve")
        assert (code, "EVERLOOP_PRINCIPALS" in said) == (2, True)

    def test_without_an_audit_log_nothing_is_done(self, shell: Shell, run_id: str) -> None:
        (Path(shell.storage) / ".state").mkdir(exist_ok=True)
        key = Path(shell.storage) / ".state" / "audit.key"
        key.write_text("00" * 32)
        key.chmod(0o644)
        code, said = shell("workflows.runs", "cancel", run_id)
        assert (code, "audit.key" in said) == (1, True)
        assert Engine(shell.storage).view(run_id).status == "pending"
        key.chmod(0o600)
        assert shell("workflows.runs", "cancel", run_id)[0] == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    shell = Shell(folder)
    Loop(shell.storage).start_by_hand(CONFIG, run_id="r1", by="Person::ann")
    codes = [shell.process("workflows.runs", "cancel", "r1", who=who)[0] for who in ("bob", "cat", "ann")]
    assert codes == [2, 2, 0]
    return folder


class TestTheAuditOfCommands:
    """Written by real processes, one after the other, then damaged."""

    @pytest.fixture
    def audited(self, written: Path, shell: Shell) -> Path:
        """The folder of the audit log after three commands."""
        shutil.copytree(written / "storage", shell.storage)
        (folder,) = (Path(shell.storage) / "audit").iterdir()
        return folder

    def verify(self, shell: Shell) -> tuple[int, str]:
        key = signing_key(Path(shell.storage) / ".state" / "audit.key").public.hex
        return shell("workflows.access", "verify", "--key", key)

    def test_verify_says_whole(self, audited: Path, shell: Shell) -> None:
        assert self.verify(shell) == (
            0,
            f"audit/{audited.name}\t3 records\t3 under a checkpoint\n1 logs, 3 checkpoints: whole\n",
        )
        assert [(e["principal"], e["decision"]) for e in shell.entries()] == [
            ("Person::bob", "deny"),
            ("Person::cat", "deny"),
            ("Person::ann", "allow"),
        ]

    @pytest.mark.parametrize("what", ["edit", "truncate", "remove", "swap"])
    def test_verify_finds(self, what: str, audited: Path, shell: Shell) -> None:
        records = sorted(audited.iterdir())
        if what == "edit":
            text = records[1].read_text()
            assert '"deny"' in text
            records[1].write_text(text.replace('"deny"', '"allow"'))
        elif what == "truncate":
            records[2].unlink()
        elif what == "remove":
            shutil.rmtree(audited)
        else:
            first, second = records[0].read_bytes(), records[1].read_bytes()
            records[0].write_bytes(second)
            records[1].write_bytes(first)
        code, said = self.verify(shell)
        assert (code, "findings" in said) == (1, True)


def test_a_dry_run_imports_nothing_of_access_control(tmp_path: Path) -> None:
    program = (
        "import json, sys\nfrom workflows import run\n"
        "run.main(['--recipe', 'nano', '--dry-run', '--storage', sys.argv[1]])\n"
        "print(json.dumps([m for m in ('cedarpy', 'cryptography', 'torch') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == []
