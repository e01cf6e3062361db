from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

IMAGES = Path(__file__).resolve().parents[2] / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
ROLES = [path.parent.name for path in DOCKERFILES]
SECRET = re.compile(r"(?i)\b(ARG|ENV)\s+\w*(password|secret|token|api_?key)\w*")


def test_there_is_an_image_for_each_role_of_the_chart() -> None:
    schema = json.loads((IMAGES.parent / "charts" / "everloop" / "values.schema.json").read_text())
    described = schema["properties"]["images"]["properties"]["overrides"]["description"]
    named = set(re.findall(r"[a-z0-9-]+", described.partition(":")[2]))
    assert named <= set(ROLES)


@pytest.mark.parametrize("path", DOCKERFILES, ids=ROLES)
def test_every_image_is_made_the_same_way(path: Path) -> None:
    text = path.read_text()
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm" in text or "ARG RAY_IMAGE=" in text
    last_stage = text[text.rindex("\nFROM ") :] if "\nFROM " in text else text
    assert "USER 65532:65532" in last_stage
    assert last_stage.rindex("USER 65532:65532") > last_stage.rindex("RUN "), "nothing is run as root after it"
    assert "HEALTHCHECK" in last_stage
    assert f'org.opencontainers.image.title="everloop-{path.parent.name}"' in last_stage
    assert f"sbom.py everloop-{path.parent.name}" in last_stage


@pytest.mark.parametrize("path", DOCKERFILES, ids=ROLES)
def test_no_image_takes_a_secret(path: Path) -> None:
    assert not SECRET.search(path.read_text())


def test_the_pattern_for_secrets_finds_some() -> None:
    assert SECRET.search("ARG NPM_TOKEN=")
    assert SECRET.search("ENV DB_PASSWORD=x")


def test_the_context_of_builds_is_a_list_of_what_is_needed() -> None:
    lines = (IMAGES.parent / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert not any("state" in line or ".git" in line for line in lines)
