"""Model files on every node on which vLLM loads them."""

from __future__ import annotations

from ray.llm._internal.common.callbacks.base import CallbackBase

from steps.common.language_model import verify_model
from steps.deploy.model_cache import cached_model
from workflows.log import open_store


class FetchedModel(CallbackBase):  # type: ignore[misc]
    """A hook of `ray.serve.llm`, with `storage`, `model` and `root` as its arguments.

    A replica may start on a node that has never seen the model, and Ray fetches from public stores only.
    """

    def on_before_download_model_files_distributed(self) -> None:
        """Fetches and checks the model; Ray calls this on each node of a replica before it looks for the files.

        Raises:
            UnsafeModelError: See `verify_model`.
            DamagedModelError: Likewise.
        """
        store = open_store(self.kwargs["storage"])
        verify_model(cached_model(store, self.kwargs["model"], root=self.kwargs["root"]))
