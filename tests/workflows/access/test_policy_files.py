from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.access import LOCAL_POLICIES, TEAM_POLICIES, PolicyError, load_policies
from workflows.access.policy_files import _statements

SCHEMA = """// one
entity Person = { team: String };
entity Run = { team: String };

action read_run appliesTo { principal: [Person], resource: [Run], context: {} };
"""
GOOD = """// a comment; with a semicolon

@id("a")
permit (principal, action, resource)
when { resource.team == "x;\\"y" };
"""


def write(folder: Path, *, schema: str = SCHEMA, **policies: str) -> list[Path]:
    (folder / "everloop.cedarschema").write_text(schema)
    for name, text in policies.items():
        (folder / f"{name}.cedar").write_text(text)
    return [folder]


def test_the_policies_of_the_project_are_valid_and_say_where_each_stands() -> None:
    policy_set = load_policies([TEAM_POLICIES, LOCAL_POLICIES])
    assert policy_set.origins["owner-of-local-storage"].startswith("owner.cedar:")
    assert "owner-of-local-storage" not in load_policies([TEAM_POLICIES]).origins
    assert policy_set.digest != load_policies([TEAM_POLICIES]).digest


def test_strings_and_comments_may_hold_semicolons(tmp_path: Path) -> None:
    assert load_policies(write(tmp_path, good=GOOD)).origins == {"a": "good.cedar:3"}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (GOOD + '@id("b")\npermit (principal, action, resource) when { ;\n', 6, "unexpected token"),
        (GOOD + '\n@id("b")\npermit (principal, action == Action::"fly", resource);', 7, "fly"),
        (GOOD + '@id("b") permit (principal, action, resource) when { resource.tame == "x" };', 6, "tame"),
        (GOOD + "permit (principal, action, resource);", 6, "starts with @id"),
        (GOOD + GOOD, 8, "is taken by"),
        (GOOD + '@id("b") permit (principal == ?principal, action, resource);', 6, "no template"),
        (GOOD + '@id("b") permit (principal, action, resource)', 6, "unexpected end"),
        ("// nothing here\n", 0, ""),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text: str, line: int, reason: str, tmp_path: Path) -> None:
    folders = write(tmp_path, bad=text)
    if not reason:
        assert load_policies(folders).origins == {}
        return
    with pytest.raises(PolicyError, match=reason) as caught:
        load_policies(folders)
    assert (caught.value.path.name, caught.value.line) == ("bad.cedar", line)
    assert f"bad.cedar:{line}: " in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        (SCHEMA + "entity;\n", 6),
        (SCHEMA + "entity Model = { stage: Strin };\n", 6),
        (SCHEMA.replace("[Run]", "[Rum]"), 5),
    ],
)
def test_a_wrong_schema_is_named_with_its_line(schema: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policies(write(tmp_path, schema=schema, good=GOOD))
    assert (caught.value.path.name, caught.value.line) == ("everloop.cedarschema", line)


def test_a_missing_schema_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policies([tmp_path])
    with pytest.raises(PolicyError, match=r"no \*\.cedar file"):
        load_policies(write(tmp_path))


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    folders = write(tmp_path, good=GOOD)
    (tmp_path / "bad.cedar").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match=r"bad\.cedar:0: cannot be read"):
        load_policies(folders)


comments = st.text(st.sampled_from('a"; \\/{'), max_size=12).map(lambda text: f"//{text}\n")
literals = st.text(st.sampled_from("a; /{}"), max_size=8) | st.sampled_from(['\\"', "\\\\", '\\";\\"', "//", "\\n"])


@given(st.lists(st.tuples(st.lists(comments | st.sampled_from([" ", "\n"]), max_size=4), literals), max_size=5))
def test_each_policy_is_cut_out_where_it_stands(parts: list[tuple[list[str], str]]) -> None:
    text, expected = "", []
    for between, literal in parts:
        text += "".join(between)
        policy = f'@id("p") // "; \npermit (principal, action, resource) when {{ "{literal}" == "x" }};'
        expected.append((text.count("\n") + 1, policy))
        text += policy
    found = [(statement.line, statement.text) for statement in _statements(Path("x"), text + "// the end; ")]
    assert found == expected
