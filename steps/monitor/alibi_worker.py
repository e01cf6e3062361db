# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["alibi-detect==0.13.0", "numpy<2", "transformers<5", "numba<0.60"]
# ///
"""alibi-detect behind JSON lines, in an environment of its own: it needs numpy < 2 and transformers < 5.

One request a line on stdin, one answer a line on stdout: `{"op": "fit" | "score" | "replay" | "load", ...}` gives
`{"ok": ...}` or `{"error": "..."}`. Ends when stdin does, so it never outlives who started it. Imports nothing of ours.

`cvm` runs on what alibi-detect brings. `mmd` needs torch, which would be 4.5 GB more: with `--torch-from FOLDER` it is
taken from another environment of the same Python.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import sys
import threading
from typing import Any

MAX_CVM_BOOTSTRAPS = 5_000
MAX_CVM_REFERENCE = 200  # the bootstrap compares all pairs of the reference for every simulated stream
MAX_CVM_FEATURES = 4  # it takes features for independent: the first principal components nearly are
MAX_BOOTSTRAPS = 20_000


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries that print must not break the lines
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    worker = Worker()
    while True:
        request = json.loads(requests.get())
        try:
            answer = {"ok": getattr(worker, request.pop("op"))(**request)}
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # also out of a long fit: nobody is there to hear the answer


class Worker:
    """One detector."""

    def fit(
        self, kind: str, points: str, num_features: int, run_length: float, window: int, seed: int
    ) -> dict[str, Any]:
        """Fits a detector to float32 points, base64, row by row."""
        import numpy as np

        reference = np.frombuffer(base64.b64decode(points), "<f4").reshape(-1, num_features)
        np.random.seed(seed)  # alibi-detect draws from the global generator
        self.kind, self.window = kind, window
        if kind == "cvm":
            from alibi_detect.cd import CVMDriftOnline

            self.num_features = min(num_features, MAX_CVM_FEATURES)
            reference = reference[-MAX_CVM_REFERENCE:, : self.num_features]
            self.detector = CVMDriftOnline(
                reference,
                ert=run_length,
                window_sizes=[window],
                n_bootstraps=int(min(10 * run_length * self.num_features, MAX_CVM_BOOTSTRAPS)),
                verbose=False,
            )
        elif kind == "mmd":
            import torch
            from alibi_detect.cd import MMDDriftOnline

            torch.manual_seed(seed)
            torch.set_num_threads(1)
            self.num_features = num_features
            self.detector = MMDDriftOnline(
                reference.copy(),
                ert=run_length,
                window_size=window,
                backend="pytorch",
                device="cpu",
                n_bootstraps=int(min(10 * run_length, MAX_BOOTSTRAPS)),
                verbose=False,
            )._detector
        else:
            raise ValueError(f"unknown kind {kind!r}")
        return {"num_features": self.num_features, "threshold": self._threshold(2 * window)}

    def score(self, point: str) -> dict[str, float]:
        """Takes one point; gives statistic and threshold. For `cvm` that is the largest ratio to a limit."""
        import numpy as np

        x = np.frombuffer(base64.b64decode(point), "<f4")[: self.num_features].copy()
        return self._score(x)

    def _score(self, x: Any) -> dict[str, float]:
        import numpy as np

        statistic = self.detector.score(x)
        threshold = self._threshold(self.detector.t)
        if self.kind == "mmd":
            return {"statistic": float(statistic), "threshold": threshold}
        self.detector.xs = self.detector.xs[-self.window :]  # it would keep every point
        if self.detector.t < self.window:
            return {"statistic": 0.0, "threshold": threshold}  # it says nothing before its window is full
        limits = self.detector.get_threshold(self.detector.t - 1)
        return {"statistic": float(np.max(statistic / limits)), "threshold": threshold}

    def _threshold(self, t: int) -> float:
        return float(self.detector.get_threshold(t)) if self.kind == "mmd" else 1.0

    def load(self, points: str, num_seen: int, size: int) -> dict[str, int]:
        """Starts anew, takes the last points that were seen, and counts on from there."""
        import numpy as np

        self.detector.reset_state()
        for x in np.frombuffer(base64.b64decode(points), "<f4").reshape(-1, size):
            self._score(x[: self.num_features].copy())
        self.detector.t = num_seen
        return {"num_seen": num_seen}

    def replay(self, points: str, size: int, num_steps: int, seed: int) -> dict[str, float]:
        """Feeds points drawn from a pool; gives the steps taken and the alarms among them."""
        import numpy as np

        pool = np.frombuffer(base64.b64decode(points), "<f4").reshape(-1, size)[:, : self.num_features]
        rng = np.random.default_rng(seed)
        num_alarms = 0
        recent: list[int] = []
        self.detector.reset_state()
        for _ in range(num_steps):
            index = int(rng.integers(len(pool)))
            while index in recent:  # in life no session is twice in a window
                index = int(rng.integers(len(pool)))
            recent = [*recent, index][-min(self.window, len(pool) - 1) :]
            reading = self._score(pool[index].copy())
            if reading["statistic"] > reading["threshold"]:
                num_alarms += 1
                self.detector.reset_state()
        self.detector.reset_state()
        return {"num_steps": num_steps, "num_alarms": num_alarms}


if __name__ == "__main__":
    if "--torch-from" in sys.argv:
        # Last on the path: numpy and the rest still come from this environment.
        sys.path.append(sys.argv[sys.argv.index("--torch-from") + 1])
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
