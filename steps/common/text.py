"""Text as people mean it: one Unicode form, no control characters, no stray blanks."""

from __future__ import annotations

import re
import unicodedata

# Kept: tab and line feed, which mean something; zero-width joiners, which Indic scripts and emoji need.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]")
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_INNER_BLANKS = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_EMPTY_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """Brings text into one form; doing it twice changes nothing.

    Unicode NFC (UAX 15), line ends as `\\n`, no control or invisible formatting characters, every blank a plain
    space, no blanks at line ends, one blank between words, at most one empty line in a row. Indentation stays: in code
    it means something.
    """
    # Composition comes last of the character steps: a removed invisible may have stood between a letter and its accent.
    text = _LINE_ENDS.sub("\n", text)
    text = _BLANKS.sub(" ", _CONTROLS.sub("", text))
    text = unicodedata.normalize("NFC", text)
    text = _INNER_BLANKS.sub(" ", _TRAILING.sub("", text))
    return _EMPTY_LINES.sub("\n\n", text).strip("\n").rstrip()


def decode_text(data: bytes | None) -> str:
    """Decodes UTF-8 where nothing vouches for it: what is invalid becomes U+FFFD, nothing becomes the empty text."""
    return "" if data is None else data.decode("utf-8", errors="replace")
