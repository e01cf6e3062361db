"""The program that the README shows, run as a user would: in a folder of its own, from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import workflows.engine

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The program in the package's docstring."""
    text = textwrap.dedent((workflows.engine.__doc__ or "").partition("it goes on:\n\n")[2])
    file = tmp_path / "program.py"
    file.write_text(text)
    return file


def run(file: Path, ray_head: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, file.name, *arguments],
        cwd=file.parent,
        env={**os.environ, "RAY_ADDRESS": ray_head, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.ray
def test_the_program_of_the_readme_runs(program: Path, ray_head: str) -> None:
    assert len([line for line in program.read_text().splitlines() if line.strip()]) <= 12
    assert run(program, ray_head) == "succeeded 84"


CHANGING = """
import sys
from workflows.engine import CodeChanged, Engine, approval, step

@step
def first() -> str:
    return "old"

@step
def second(before: str, approved: object) -> str:
    return before + " then old"

def build(config):
    return second.bind(first.bind(), approval("go"))

if __name__ == "__main__":
    engine = Engine("./runs")
    run_id = engine.start(build, {}, run_id="r") if sys.argv[1] == "start" else "r"
    if sys.argv[1] == "plan":
        print([(entry.step, entry.action) for entry in engine.plan(run_id).entries])
    else:
        try:
            engine.drive(run_id, code="same" if sys.argv[1] == "start" else sys.argv[1])
            if sys.argv[1] == "start":
                engine.approve(run_id, "go", by="ann")
            print(engine.view(run_id).reason)
            print(engine.view(run_id).status, engine.output(run_id) if sys.argv[1] != "start" else "")
        except CodeChanged as error:
            print("changed", error.difference[0].partition(":")[0], len(error.difference))
"""


@pytest.mark.ray
@pytest.mark.parametrize(("mode", "expected"), [("accept", "old then new"), ("recorded", "old then old")])
def test_changed_code_is_refused_until_it_is_accepted_or_the_recorded_code_is_run(
    tmp_path: Path, ray_head: str, mode: str, expected: str
) -> None:
    file = tmp_path / "changing.py"
    file.write_text(CHANGING)
    assert run(file, ray_head, "start").startswith("parked")
    file.write_text(CHANGING.replace('" then old"', '" then new"'))
    assert run(file, ray_head, "plan") == "[('first', 'changed'), ('go', 'will wait'), ('second', 'will run')]"
    assert run(file, ray_head, "same").startswith("changed changing")
    assert run(file, ray_head, mode) == f"succeeded {expected}"
