from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from workflows.engine.code import Project, difference

FILES = {
    "app/__init__.py": "",
    "app/steps.py": "from app import tools\nfrom .deep.leaf import leaf\ndef run():\n    import app.lazy\n",
    "app/tools.py": "import json\nLIMIT = 1\n",
    "app/lazy.py": "X = 1\n",
    "app/other.py": "X = 1\n",
    "app/policy.cedar": "permit;",
    "app/deep/__init__.py": "",
    "app/deep/leaf.py": "from ..cycle import back\ndef leaf(): ...\n",
    "app/cycle.py": "import app.steps\ndef back(): ...\n",
    "uv.lock": "a = 1\n",
    "notes.md": "not part of the code",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_the_closure_follows_imports_of_every_shape(root: Path) -> None:
    assert Project([root]).closure("app.steps") == {
        "app", "app.steps", "app.tools", "app.lazy", "app.deep", "app.deep.leaf", "app.cycle",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("app/steps.py", True),
        ("app/lazy.py", True),
        ("app/deep/leaf.py", True),
        ("app/other.py", False),
        ("notes.md", False),
    ],
)
def test_a_step_changes_with_what_it_imports_and_nothing_else(root: Path, file: str, changes: bool) -> None:
    before = Project([root]).describe(["app.steps:run"])
    (root / file).write_text((root / file).read_text() + "\n# changed\n")
    after = Project([root]).describe(["app.steps:run"])
    assert (before != after) is changes
    lines = difference(before.to_json(), after.to_json(), ["app.steps:run"])
    assert bool(lines) is changes


def test_the_lock_file_counts(root: Path) -> None:
    before = Project([root]).describe(["app.steps:run"])
    (root / "uv.lock").write_text("a = 2\n")
    (line,) = difference(before.to_json(), Project([root]).describe(["app.steps:run"]).to_json(), ["app.steps:run"])
    assert line.startswith("lock file: ")


def test_the_bundle_holds_whole_packages_with_their_data_and_depends_on_content_alone(root: Path) -> None:
    (root / "app" / "__pycache__").mkdir()
    (root / "app" / "__pycache__" / "tools.pyc").write_bytes(b"x")
    bundle = Project([root]).bundle(["app.steps:run"])
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert sorted(archive.namelist()) == sorted(name for name in FILES if name.startswith("app/"))
    (root / "app" / "tools.py").touch()
    assert Project([root]).bundle(["app.steps:run"]) == bundle


def test_the_engine_itself_is_a_library_and_no_part_of_the_project() -> None:
    repository = Path(__file__).resolve().parents[3]
    closure = Project([repository]).closure("tests.workflows.engine.graphs")
    assert "tests.workflows.engine.graphs" in closure
    assert not [module for module in closure if module.startswith(("workflows.engine", "workflows.log"))]
