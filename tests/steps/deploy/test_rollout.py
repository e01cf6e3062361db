"""What a rollout decides before any replica is started; the rest is in test_serving.py, on a real Ray Serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.common import releases
from steps.common.alone import AloneContext
from steps.common.language_model.model import write_manifest
from steps.common.releases import Limits, ReleasedModel, ReleaseState, open_release_log
from steps.deploy.rollout import _refuse_damaged
from workflows.log import Log


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AloneContext:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return AloneContext(str(tmp_path / "storage"), step="deploy", scratch=tmp_path / "scratch")


def opened(ctx: AloneContext, folder: Path) -> Log[ReleaseState]:
    log = open_release_log(ctx.store, "demo")
    decide = releases.open_rollout(
        rollout_id="r",
        challenger=ReleasedModel("2", ctx.blobs.put_tree(folder), {}, "pages@v1", "run-1"),
        run_id="run-1",
        epoch=ctx.epoch,
        at=0.0,
        deadline_at=1e12,
        limits=Limits(),
        stage="canary",
        weight=0.1,
        serving={},
    )
    log.append(decide)
    return log


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest(folder)
    return folder


def test_a_model_that_differs_from_its_manifest_is_condemned_before_anything_starts(
    ctx: AloneContext, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_text('{"hidden_size": 1}')
    log = opened(ctx, folder)
    _refuse_damaged(log, "r", ctx)
    past = log.state.finished("r")
    assert past is not None
    assert past.outcome == "rolled_back"
    assert "digest differs from the manifest" in past.reasons[0]
    assert "2" in log.state.condemned


def test_a_model_with_a_pickle_in_it_is_condemned(ctx: AloneContext, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "weights.pkl").write_bytes(b"")
    log = opened(ctx, folder)
    _refuse_damaged(log, "r", ctx)
    assert "2" in log.state.condemned


def test_a_whole_model_stays_under_rollout(ctx: AloneContext, tmp_path: Path) -> None:
    log = opened(ctx, model_folder(tmp_path / "model"))
    _refuse_damaged(log, "r", ctx)
    assert log.state.rollout is not None
    assert not log.state.condemned
