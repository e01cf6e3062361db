"""The bill of materials is that of the lock, the lock is that of the project, and both are what is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv") or next((str(path) for path in [ROOT / ".tools" / "bin" / "uv"] if path.exists()), None)
GROUPS = ("--all-extras", "--all-groups")

pytestmark = pytest.mark.skipif(UV is None, reason="no uv: it makes the bill of materials")


def uv(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    assert UV is not None
    return subprocess.run(
        [UV, *arguments], cwd=folder, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    made = uv("export", "--locked", "--offline", "--format", "cyclonedx1.5", *GROUPS, "--quiet")
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_bill_names_every_component_with_version_and_address(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert len(bill["components"]) > 100
    for component in bill["components"]:
        assert component["name"]
        assert component["version"]
        assert component["purl"].startswith(f"pkg:pypi/{component['name']}@{component['version']}")


def test_what_is_installed_is_in_the_bill_with_that_version(bill: dict[str, Any]) -> None:
    billed: dict[str, set[str]] = {}
    for component in bill["components"]:
        billed.setdefault(normal(component["name"]), set()).add(component["version"])
    # Ray adds a folder with packages of its own to the path of whoever imports it; they are part of Ray.
    folders = sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})
    installed = {normal(found.metadata["Name"]): found.version for found in distributions(path=folders)}
    # What makes and fills environments is no part of the product.
    strangers = {
        name: version
        for name, version in installed.items()
        if version not in billed.get(name, set()) and name not in {"pip", "setuptools", "wheel", "everloop"}
    }
    assert strangers == {}
    # The control: the look-up does find something, and would find a version that differs.
    assert installed["ray"] in billed["ray"]
    assert "0.0.1" not in billed["ray"]


def test_every_file_in_the_lock_has_a_digest() -> None:
    exported = uv("export", "--locked", "--offline", "--format", "requirements-txt", *GROUPS, "--quiet")
    assert exported.returncode == 0, exported.stderr
    # A requirement and its digests are one logical line.
    entries = [line for line in exported.stdout.replace("\\\n", " ").splitlines() if line and line[0] not in "# "]
    assert len(entries) > 100
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_a_lock_that_drifts_from_the_project_is_refused(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    checked = uv("export", "--locked", "--offline", "--quiet", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"rich>=14",', "", 1))
    drifted = uv("export", "--locked", "--offline", "--quiet", folder=tmp_path)
    assert drifted.returncode != 0
    # uv resolves anew, and on a cold cache gets no further than that.
    assert re.search("needs to be updated|No solution found when resolving", drifted.stderr), drifted.stderr
