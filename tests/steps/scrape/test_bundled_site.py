from __future__ import annotations

import http.client
import itertools
import re

import pytest

from steps.scrape.bundled_site import FOLDER, serve_folder
from steps.scrape.extract import extract


def test_there_are_thirty_pages_of_prose_that_differ() -> None:
    pages = {path.name: path.read_bytes() for path in FOLDER.glob("*.html") if path.name != "index.html"}
    assert len(pages) == 30
    texts = {name: extract(body, url=f"http://bundled.localhost/{name}").text for name, body in pages.items()}
    assert all(150 <= len(text.split()) <= 400 for text in texts.values())
    shingles = {name: _shingles(text) for name, text in texts.items()}
    for one, other in itertools.combinations(shingles.values(), 2):
        assert len(one & other) / len(one | other) < 0.02


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_every_page_can_be_reached_from_the_first() -> None:
    found, waiting = set(), ["http://bundled.localhost/"]
    while waiting:
        url = waiting.pop()
        if url not in found:
            found.add(url)
            name = url.rpartition("/")[2] or "index.html"
            waiting.extend(extract((FOLDER / name).read_bytes(), url=url).links)
    assert len(found) == 31


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/bread.html", {}, 200),
        ("/no-such.html", {}, 404),
        ("/../config.py", {}, 404),
        ("/%2e%2e/bundled_site.py", {}, 404),
    ],
)
def test_only_its_pages_are_served(path: str, headers: dict[str, str], status: int) -> None:
    with serve_folder(FOLDER) as port:
        assert _get(port, path, headers)[0] == status


def test_a_page_that_is_known_is_answered_with_304() -> None:
    with serve_folder(FOLDER) as port:
        _, etag, _ = _get(port, "/tea.html", {})
    with serve_folder(FOLDER) as port:
        assert _get(port, "/tea.html", {"If-None-Match": etag}) == (304, etag, b"")
        assert _get(port, "/tea.html", {"If-None-Match": '"other"'})[0] == 200


def _get(port: int, path: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("ETag", ""), answer.read()
    finally:
        connection.close()
