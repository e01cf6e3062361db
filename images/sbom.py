"""Writes what an image holds as CycloneDX 1.5: Debian packages, Python distributions, npm packages.

Run as the last step of a build, in the image itself: `python3 sbom.py NAME VERSION > sbom.cdx.json`. It lists what is
installed, not what was asked for. The standard library is enough, so that it runs in every image with a Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

PYTHON_FOLDERS = ("/app/.venv", "/opt/venv", "/opt/drift")
NODE_FOLDERS = ("/opt/n8n/app/node_modules",)


def components(root: Path = Path("/")) -> list[dict[str, Any]]:
    """All packages below a root, each once, in the order of their package URL."""
    found = {each["purl"]: each for each in (*_debian(root), *_python(root), *_npm(root))}
    return [found[purl] for purl in sorted(found)]


def document(name: str, version: str, root: Path = Path("/")) -> dict[str, Any]:
    """The bill of materials of an image. Holds no time and no random number: the same image gives the same bytes."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": components(root),
    }


def _debian(root: Path) -> Iterator[dict[str, Any]]:
    admin = root / "var/lib/dpkg"
    if not (admin / "status").exists():
        return
    shown = "${db:Status-Abbrev}\\t${Package}\\t${Version}\\t${Architecture}\\n"
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={admin}", "-W", f"-f={shown}"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        status, name, version, architecture = line.split("\t")
        if status.startswith("ii"):
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def _python(root: Path) -> Iterator[dict[str, Any]]:
    folders = [str(path) for base in PYTHON_FOLDERS for path in (root / base[1:]).glob("lib/python3*/site-packages")]
    for distribution in metadata.distributions(path=folders):
        name = distribution.metadata["Name"]
        entry = {
            "type": "library",
            "name": name,
            "version": distribution.version,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(distribution.version, safe='')}",
        }
        stated = "License-Expression" in distribution.metadata
        licence = distribution.metadata["License-Expression"] if stated else ""
        yield entry | ({"licenses": [{"expression": licence}]} if licence else {})


def _npm(root: Path) -> Iterator[dict[str, Any]]:
    for base in NODE_FOLDERS:
        for manifest in (root / base[1:]).glob("**/node_modules/**/package.json"):
            yield from _npm_package(manifest)
        for manifest in (root / base[1:]).glob("*/package.json"):
            yield from _npm_package(manifest)
        for manifest in (root / base[1:]).glob("@*/*/package.json"):
            yield from _npm_package(manifest)


def _npm_package(manifest: Path) -> Iterator[dict[str, Any]]:
    try:
        described = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    name, version = described.get("name"), described.get("version")
    if isinstance(name, str) and isinstance(version, str) and name and version:
        purl = f"pkg:npm/{quote(name, safe='/')}@{quote(version, safe='')}"
        yield {"type": "library", "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    json.dump(document(sys.argv[1], sys.argv[2]), sys.stdout, indent=1)
