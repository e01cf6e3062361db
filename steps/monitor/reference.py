"""The drift reference: projection, reference traffic and thresholds in one file, `.npz` without pickle."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steps.monitor.config import MonitorConfig
from steps.monitor.detectors import NUM_DETECTORS, Detector, MmdDetector, ScalarDetector, Watch
from steps.monitor.mmd import MmdReference
from steps.monitor.scalars import ScalarReference
from steps.monitor.streams import Floats

MEDIA_TYPE = "application/x-npz"

_MMD_ARRAYS = ("points", "thresholds")


@dataclass(frozen=True, slots=True)
class Projection:
    """Principal components of the reference's embeddings.

    Attributes:
        mean: Shape [384].
        components: Orthonormal columns, shape [384, d].
    """

    mean: Floats
    components: Floats

    @classmethod
    def fit(cls, vectors: Floats, num_components: int) -> Projection:
        """Fits at most a component for every 4 vectors: more would describe these vectors only."""
        mean = np.asarray(vectors.mean(0), np.float32)
        kept = max(1, min(num_components, len(vectors) // 4))
        _, _, rows = np.linalg.svd(vectors - mean, full_matrices=False)
        return cls(mean, np.ascontiguousarray(rows[:kept].T))

    def __call__(self, vectors: Floats) -> Floats:
        return np.asarray((vectors - self.mean) @ self.components, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a scan needs to go on watching.

    Attributes:
        config: Settings that it was made with.
        embedding_model: Another model is another space.
        projection: From embeddings to features.
        mmd: Reference of the embedding detector; of another engine only `points` and the run lengths are used.
        scalars: Reference of the scalar detector.
    """

    config: MonitorConfig
    embedding_model: str
    projection: Projection
    mmd: MmdReference
    scalars: ScalarReference

    def to_bytes(self) -> bytes:
        mmd, scalars = asdict(self.mmd), asdict(self.scalars)
        arrays = {
            "mean": self.projection.mean,
            "components": self.projection.components,
            "scalar_values": scalars.pop("values"),
            **{name: mmd.pop(name) for name in _MMD_ARRAYS},
        }
        plain = {
            "config": self.config.model_dump(mode="json"),
            "embedding_model": self.embedding_model,
            "mmd": mmd,
            "scalars": scalars,
        }
        file = io.BytesIO()
        np.savez(file, plain=np.frombuffer(json.dumps(plain).encode(), np.uint8), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reference:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            plain: dict[str, Any] = json.loads(file["plain"].tobytes())
            scalars = {**plain["scalars"], "names": tuple(plain["scalars"]["names"]), "values": file["scalar_values"]}
            return cls(
                config=MonitorConfig.model_validate(plain["config"]),
                embedding_model=plain["embedding_model"],
                projection=Projection(file["mean"], file["components"]),
                mmd=MmdReference(**plain["mmd"], **{name: file[name] for name in _MMD_ARRAYS}),
                scalars=ScalarReference(**scalars),
            )

    def watches(self) -> tuple[Watch, ...]:
        """Makes the detectors, as after a start."""
        embeddings: Detector
        if self.config.engine == "numpy":
            embeddings = MmdDetector(self.mmd)
        else:
            from steps.monitor.alibi import AlibiDetector

            embeddings = AlibiDetector.fit(
                self.mmd.points,
                self.config,
                run_length=NUM_DETECTORS * self.config.run_length,
                window=self.mmd.window,
            )
        return Watch(embeddings), Watch(ScalarDetector(self.scalars))


def close(watches: Sequence[Watch]) -> None:
    """Ends what the detectors have started."""
    for watch in watches:
        end = getattr(watch.detector, "close", None)
        if end is not None:
            end()
