"""The chart, rendered by a real helm; without one the tests skip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest
import yaml

from tests.charts.rendering import CHART, Manifest, Render


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs helm; what it says is in the result."""
    found = shutil.which("helm", path=os.pathsep.join([os.environ.get("PATH", ""), "/var/lib/k8s-rig/bin"]))
    if found is None:
        pytest.skip("no helm on PATH")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """Renders a profile with changed values; each combination once a session."""
    known: dict[tuple[str, ...], list[Manifest]] = {}

    def rendered(profile: str, *changes: str) -> list[Manifest]:
        key = (profile, *changes)
        if key not in known:
            changed = [part for change in changes for part in ("--set", change)]
            values = str(CHART / "ci" / f"{profile}-values.yaml")
            done = helm("template", "el", str(CHART), "--kube-version", "1.34.0", "-n", "loop", "-f", values, *changed)
            assert done.returncode == 0, done.stderr
            known[key] = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
        return known[key]

    return rendered
