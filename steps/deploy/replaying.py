"""Held-out prompts as canary traffic, for loops without clients: nothing in them was trained on.

They go through the endpoint like anyone's requests, each as a session of its own, and are marked in the outcome log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from steps.common.dataset import read_table
from steps.common.results import DatasetVersion
from steps.deploy.app import REPLAY_HEADER
from steps.deploy.client import ask
from workflows.log import Blobs

logger = logging.getLogger(__name__)

NUM_PROMPT_CHARS = 200
"""Length of a replayed prompt."""

NUM_CLIENTS = 4
"""Requests at the same time: enough to fill a batch, too few to crowd out clients."""


def heldout_prompts(dataset: DatasetVersion, blobs: Blobs, start: int, number: int) -> Sequence[str]:
    """Gives the beginnings of held-out documents, from a different place in them each time around."""
    texts = read_table(blobs, dataset, "heldout", ["text"])["text"].to_pylist()
    prompts = []
    for at in range(start, start + number):
        if not texts:
            break
        turn, which = divmod(at, len(texts))
        text = texts[which]
        offset = (turn * NUM_PROMPT_CHARS) % max(1, len(text) - NUM_PROMPT_CHARS)
        prompts.append(text[offset : offset + NUM_PROMPT_CHARS])
    return prompts


def send(url: str, alias: str, prompts: Sequence[str], *, session: str, max_tokens: int) -> int:
    """Sends prompts; gives how many were answered. Failures are the outcome log's to tell."""

    def one(numbered: tuple[int, str]) -> bool:
        number, prompt = numbered
        headers = {"x-session-id": f"{session}-{number}", REPLAY_HEADER: "1"}
        try:
            ask(url, alias, prompt, max_tokens=max_tokens, headers=headers)
        except OSError as error:
            logger.info("a replayed prompt was not answered: %s", error)
            return False
        return True

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        return sum(clients.map(one, enumerate(prompts)))
