"""Pages that a test serves and changes, and what people ask who have read them."""

from __future__ import annotations

import random
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from steps import scrape

PASSAGE_CHARS = 200
_PARTS = [
    "pump",
    "valve",
    "bearing",
    "gearbox",
    "motor",
    "belt",
    "sensor",
    "nozzle",
    "filter",
    "coupling",
    "rotor",
    "seal",
    "piston",
    "relay",
    "fuse",
    "cable",
]
_STATES = [
    "cracked",
    "worn",
    "loose",
    "dry",
    "corroded",
    "overheated",
    "misaligned",
    "noisy",
    "blocked",
    "leaking",
    "bent",
    "burnt",
    "frayed",
    "stuck",
]
_DEEDS = [
    "replaced",
    "greased",
    "tightened",
    "aligned",
    "cleaned",
    "sealed",
    "welded",
    "rewound",
    "flushed",
    "calibrated",
    "balanced",
    "shimmed",
]
_PLACES = ["hall", "bay", "line", "pit", "dock", "tower", "shed", "cell", "gate", "deck"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def bundled_site(folder: Path) -> Iterator[str]:
    """The bundled pages, served from a folder that a test may add to; yields the address."""
    shutil.copytree(Path(scrape.__file__).parent / "site", folder, dirs_exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def add_reports(folder: Path, count: int) -> list[str]:
    """Adds pages of another kind, maintenance reports full of numbers, links them, and gives their texts."""
    texts, links = [], []
    for number in range(count):
        draw = random.Random(number)
        paragraphs = [" ".join(_sentence(draw) for _ in range(6)) for _ in range(5)]
        title = f"Maintenance report {4000 + number}"
        body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
        page = f"<!doctype html><html lang='en'><head><title>{title}</title></head><body><main><h1>{title}</h1>{body}"
        (folder / f"report-{number}.html").write_text(page + "</main></body></html>")
        links.append(f"<li><a href='report-{number}.html'>{title}</a></li>")
        texts.append(" ".join(paragraphs))
    index = folder / "index.html"
    index.write_text(index.read_text().replace("</body>", f"<ul>{''.join(links)}</ul></body>"))
    return texts


def _sentence(draw: random.Random) -> str:
    part, other = draw.sample(_PARTS, 2)
    state, deed, place = draw.choice(_STATES), draw.choice(_DEEDS), draw.choice(_PLACES)
    clock, serial, torque = (
        f"{draw.randrange(24):02}:{draw.randrange(60):02}",
        draw.randrange(1000, 9999),
        draw.randrange(90),
    )
    forms = (
        f"At {clock} the {part} {serial} of {place} {torque} was {state}, and the crew {deed} it with {torque} Nm.",
        f"Shift {draw.randrange(4)} found that {part} and {other} were {state}; both were {deed} before {clock}.",
        f"The {other} with serial {serial} had run {draw.randrange(90000)} hours when it was {deed} in {place} 7.",
        f"We have {deed} the {part} to {torque} bar, and the {other} is to be {draw.choice(_DEEDS)} by {clock}.",
        f"Ticket {serial}: {state} {part}, {torque} mm of play, {deed} at {clock} and signed off with the {place} log.",
    )
    return draw.choice(forms)


def texts_of(folder: Path) -> list[str]:
    """The plain texts of the bundled pages."""
    pages = sorted(page for page in folder.glob("*.html") if page.name != "index.html")
    return [
        " ".join(re.sub(r"<[^>]+>", " ", " ".join(re.findall(r"<p>.*?</p>", page.read_text(), re.S))).split())
        for page in pages
    ]


def passages(texts: list[str]) -> list[str]:
    """What is asked: pieces of the texts, about as long as the ones that drift is told by.

    In no page's order: one page after another would be a change of subject, which is drift.
    """
    found = []
    for text in texts:
        piece = ""
        for word in text.split():
            piece = f"{piece} {word}" if piece else word
            if len(piece) >= PASSAGE_CHARS:
                found.append(piece[:PASSAGE_CHARS])
                piece = ""
    random.Random(1).shuffle(found)
    return found
