from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.by_path import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "images" / "sbom.py"


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    return load_script(SCRIPT, "sbom")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with one Python distribution and two npm packages, one of them scoped."""
    site = tmp_path / "app/.venv/lib/python3.11/site-packages/Some_Thing-1.2.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: Apache-2.0\n"
    )
    for folder, name in (("left", "left"), ("@scope/right", "@scope/right")):
        package = tmp_path / "opt/n8n/app/node_modules" / folder
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"name": name, "version": "3.0.0"}))
    return tmp_path


def test_what_is_installed_is_listed(sbom: ModuleType, root: Path) -> None:
    found = {each["purl"]: each for each in sbom.components(root)}
    assert set(found) == {"pkg:npm/%40scope/right@3.0.0", "pkg:npm/left@3.0.0", "pkg:pypi/some-thing@1.2"}
    assert found["pkg:pypi/some-thing@1.2"]["licenses"] == [{"expression": "Apache-2.0"}]


def test_debian_packages_are_listed_without_those_that_were_removed(sbom: ModuleType, tmp_path: Path) -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("no dpkg-query on PATH")
    admin = tmp_path / "var/lib/dpkg"
    (admin / "info").mkdir(parents=True)
    entry = "Package: {}\nStatus: {}\nVersion: 1:2.0-1+b1\nArchitecture: amd64\nMaintainer: x\nDescription: x\n\n"
    (admin / "status").write_text(
        entry.format("here", "install ok installed") + entry.format("gone", "deinstall ok config-files")
    )
    assert [each["purl"] for each in sbom.components(tmp_path)] == ["pkg:deb/debian/here@1%3A2.0-1%2Bb1?arch=amd64"]


def test_the_same_image_gives_the_same_document(sbom: ModuleType, root: Path) -> None:
    first, second = sbom.document("image", "1", root), sbom.document("image", "1", root)
    assert first == second
    assert (first["bomFormat"], first["specVersion"]) == ("CycloneDX", "1.5")
    assert first["metadata"]["component"] == {"type": "container", "name": "image", "version": "1"}
