"""Connections become endpoints, and their tokens stay out of sight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from everloop.endpoint import Endpoint, endpoint_of
from everloop.errors import Unreachable


def test_a_connection_with_a_host_is_an_address_and_a_token() -> None:
    made = endpoint_of("ray", schema="https", host="ray.example", port=443, password="t", extra={})
    assert (made.url, made.headers, made.verify) == ("https://ray.example:443", {"authorization": "Bearer t"}, True)


def test_a_token_is_not_in_the_repr() -> None:
    assert "secret-token" not in repr(Endpoint("http://h", "c", "secret-token"))


def test_a_recorded_head_is_read_anew_each_time(tmp_path: Path) -> None:
    record, token = tmp_path / "ray.json", tmp_path / "token"
    extra = {"head": str(record)}
    for port in (1, 2):
        token.write_text(f"token-{port}\n")
        record.write_text(json.dumps({"dashboard": f"http://127.0.0.1:{port}/", "token_file": str(token)}))
        made = endpoint_of("ray", schema="", host="", port=None, password="", extra=extra)
        assert (made.url, made.token) == (f"http://127.0.0.1:{port}", f"token-{port}")


@pytest.mark.parametrize("content", [None, "{", "{}", '{"dashboard": "", "token_file": "token"}'])
def test_a_head_that_is_not_there_may_come_back(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("t")
    if content is not None:
        (tmp_path / "ray.json").write_text(content)
    with pytest.raises(Unreachable, match=r"ray\.json"):
        endpoint_of("ray", schema="", host="", port=None, password="", extra={"head": str(tmp_path / "ray.json")})


def test_a_connection_without_host_and_head_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'everloop_ray'"):
        endpoint_of("everloop_ray", schema="", host="", port=None, password="", extra={})
