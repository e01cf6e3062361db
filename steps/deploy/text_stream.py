"""Turns a stream of tokens into a stream of text that never has to be taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF_CHARACTER = "\ufffd"
"""What a tokenizer gives for bytes that do not make a whole character yet."""

NUM_CONTEXT_TOKENS = 5
"""Prompt tokens decoded before the first new one, so that tokenizers that strip leading spaces keep them."""

MAX_HELD_TOKENS = 8
"""A character has at most 4 bytes: after 8 tokens without a whole one the bytes are not UTF-8 and are shown anyway."""


class TextStream:
    """Decodes one answer, token by token.

    Args:
        decode: Token ids to text.
        prompt: Ids of the prompt.
        stop: Texts that end the answer.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(text for text in stop if text)
        self._ids = list(prompt[-NUM_CONTEXT_TOKENS:])
        self._shown_from = 0
        self._shown_to = len(self._ids)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes a token, gives the text that is certain now. Sets `stopped` once a stop text is complete."""
        self._ids.append(token)
        return self._release(self._new_text(whole=True))

    def finish(self) -> str:
        """Gives what was held back, at the end of the answer."""
        if self.stopped:
            return ""
        text = self._release(self._new_text(whole=False))
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _new_text(self, *, whole: bool) -> str:
        # Decoding from a few tokens back, and comparing, lets the tokenizer join tokens as it would in one text.
        before = self._decode(self._ids[self._shown_from : self._shown_to])
        after = self._decode(self._ids[self._shown_from :])
        num_held = len(self._ids) - self._shown_to
        if whole and after.endswith(HALF_CHARACTER) and num_held < MAX_HELD_TOKENS:
            return ""
        self._shown_from, self._shown_to = self._shown_to, len(self._ids)
        return after[len(before) :]

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        num_held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """Gives the length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
