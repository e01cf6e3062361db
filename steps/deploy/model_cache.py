"""Model folders on this machine, fetched once and verified."""

from __future__ import annotations

import getpass
import logging
import secrets
import shutil
import tempfile
from pathlib import Path

from workflows.log import Blobs, Store, TreeRef

logger = logging.getLogger(__name__)

MAX_MODELS = 4
"""Folders kept: champion, challenger, and two to go back to."""


def models_folder() -> Path:
    """A private folder of this user below the temporary folder."""
    return Path(tempfile.gettempdir()) / f"everloop-models-{getpass.getuser()}"


def cached_model(store: Store, model: TreeRef, *, root: Path | None = None) -> Path:
    """Gives a local folder with the files of a model, each checked against its digest when it was fetched.

    Several replicas may call this at the same time: the folder appears by a rename, whole or not at all.

    Args:
        store: The storage.
        model: The folder in it.
        root: Where folders are kept, each under its digest; by default `models_folder()`.
    """
    root = root or models_folder()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = root / model.sha256
    if folder.is_dir():
        folder.touch()
        return folder
    fetched = root / f".{model.sha256}-{secrets.token_hex(4)}"
    try:
        Blobs(store).fetch_tree(model, fetched)
        try:
            fetched.rename(folder)
        except OSError:
            # Another replica was faster.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    _prune(root, keep=folder)
    return folder


def _prune(root: Path, *, keep: Path) -> None:
    folders = sorted(
        (path for path in root.iterdir() if not path.name.startswith(".")), key=lambda p: p.stat().st_mtime
    )
    for old in [path for path in folders if path != keep][: -(MAX_MODELS - 1)]:
        logger.info("removing the model folder %s", old)
        shutil.rmtree(old, ignore_errors=True)
