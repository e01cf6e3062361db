"""The door as a whole: its description, and that nothing sent to it is a server error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows.log import StoreUnavailable

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "recipe", "overrides", "reason", "from_step", "decision", "version", "alerts", "Records", "alias", "ref", "commit",
    "status", "labels", "startsAt", "fingerprint", "s3", "bucket", "object", "eventName",
]  # fmt: skip
near_bodies = st.dictionaries(
    st.sampled_from(FIELDS),
    json_values
    | st.sampled_from(
        ["nano", "train", "approve", "4", "tiny", "refs/heads/main", "a" * 40, "firing", {"alias": "tiny"}]
    ),
    max_size=8,
)
bodies = st.one_of(
    st.binary(max_size=300),
    (json_values | near_bodies).map(lambda value: json.dumps(value).encode()),
    near_bodies.map(lambda value: json.dumps({"version": "4", "alerts": [value], "Records": [value]}).encode()),
)
segments = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_is_sent_is_a_server_error(data: st.DataObject, door: Any) -> None:
    from urllib.parse import quote

    paths: dict[str, Any] = door.client.app.openapi()["paths"]
    path = data.draw(st.sampled_from(sorted(paths)))
    method = data.draw(st.sampled_from([*(name.upper() for name in paths[path]), "PUT", "DELETE", "PATCH"]))
    for name in ("{run_id}", "{token}"):
        if name in path:
            known = [*door.loop.runs] or ["none"]
            path = path.replace(name, quote(data.draw(segments | st.sampled_from(known)), safe=""))
    if data.draw(st.booleans()):
        path += "?" + quote(data.draw(segments), safe="=&") + "&alias=" + data.draw(st.sampled_from(["tiny", "x"]))
    headers = dict(door.headers(data.draw(st.sampled_from(sorted(door.keys)))))
    if data.draw(st.booleans()):
        headers["idempotency-key"] = data.draw(
            st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
        ).strip()
    headers["content-type"] = data.draw(
        st.sampled_from(["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
    )
    if path.endswith("/events"):
        for run_id in [*door.loop.runs]:
            door.loop._change(run_id, "succeeded", "end")
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = door.client.request(method, path, content=data.draw(bodies), headers=raw)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code


def test_a_storage_that_is_away_is_told_as_such(door: Any) -> None:
    door.loop.trouble = StoreUnavailable("s3://secret-bucket", "k", "timed out")
    answer = door.send("Person::vic", "GET", "/v1/runs")
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/storage-unavailable"
    assert "secret-bucket" not in answer.text


@pytest.mark.parametrize("path", ["/v1", "/docs", "/v1/runs/", "/admin"])
def test_unknown_paths_are_problems(path: str, door: Any) -> None:
    answer = door.client.get(path, headers=door.headers("Person::vic"))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_description_has_examples_and_problems_for_every_operation(door: Any) -> None:
    description = door.client.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            if path.startswith("/v1"):
                assert {"401", "403", "422", "503"} <= set(operation["responses"]), (method, path)
    for name in ("StartBody", "ForkBody", "DecisionBody", "Alert", "PushBody"):
        fields = description["components"]["schemas"][name]["properties"]
        assert any("examples" in field for field in fields.values()), name
