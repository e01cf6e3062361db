"""The language of a text, by the model of langid.py (Lui and Baldwin 2012) as py3langid ships it; needs only numpy."""

from __future__ import annotations

from functools import cache
from typing import Any


def detect(text: str, max_chars: int) -> str:
    """Returns the ISO 639 code of the likeliest language of the first `max_chars` characters."""
    code: str = _identifier().classify(text[:max_chars])[0]
    return code


@cache
def _identifier() -> Any:
    # Loading the model takes 60 ms: once a worker process, not once a document.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
