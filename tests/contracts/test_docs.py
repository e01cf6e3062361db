"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.by_path import load_script
from workflows.configs import RECIPES, PipelineConfig
from workflows.run import parser
from workflows.summary import STEPS

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text()


def test_the_reference_is_what_the_code_says() -> None:
    module = load_script(Path(__file__).with_name("reference.py"), "reference")

    written = (REPOSITORY / "docs" / "reference.md").read_text()

    assert written == module.reference(), "run: python tests/contracts/reference.py > docs/reference.md"


def test_every_flag_of_the_main_command_is_in_the_readme_and_every_flag_there_exists() -> None:
    flags = {flag for action in parser()._actions for flag in action.option_strings if flag.startswith("--")}
    named = set(re.findall(r"--[a-z][a-z-]+", README))

    assert flags - {"--help"} <= named
    assert named <= set(re.findall(r"--[a-z][a-z-]+", (REPOSITORY / "docs" / "reference.md").read_text()))


def test_every_recipe_and_step_is_in_the_readme() -> None:
    assert all(f"`{name}`" in README for name in RECIPES)
    assert all(step in README for step in STEPS)


def test_every_setting_that_the_readme_names_exists() -> None:
    for path in re.findall(r"--set '?([a-z_]+\.[a-z_.]+)=", README):
        section, _, key = path.partition(".")
        if section == "section":
            continue
        annotation = PipelineConfig.model_fields[section].annotation
        assert annotation is not None
        assert key in annotation.model_fields, path


def test_the_program_in_the_readme_is_the_one_that_the_engine_is_tested_with() -> None:
    import workflows.engine

    program = textwrap.dedent((workflows.engine.__doc__ or "").partition("it goes on:\n\n")[2]).strip()

    assert len(program.splitlines()) > 5
    assert f"```python\n{program}\n```" in README


def test_every_file_that_the_documents_link_to_exists() -> None:
    for page in [REPOSITORY / "README.md", REPOSITORY / "ARCHITECTURE.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_airflow_has_no_package_marker_that_would_hide_the_real_one() -> None:
    assert not [
        folder for folder in (".", "dags", "plugins") if (REPOSITORY / "airflow" / folder / "__init__.py").exists()
    ]
