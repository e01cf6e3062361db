"""The library transformers, without what it imports for features that are not used here."""

from __future__ import annotations

from typing import Any


def light_transformers() -> Any:
    """Imports transformers; call it in place of the import, in the worker that needs it.

    For a kind of assisted decoding it imports scikit-learn and with it pandas: without them a worker starts two CPU
    seconds earlier (2.8 instead of 4.8 to the Llama classes).
    """
    import transformers
    from transformers import utils

    utils.is_sklearn_available = lambda: False
    return transformers
