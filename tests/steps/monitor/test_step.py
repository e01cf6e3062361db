"""The step: a reference from documents or traffic, honest about what it rests on, the same when it runs again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steps.common.alone import AloneContext
from steps.common.embedding import TextEmbedder
from steps.common.results import DatasetVersion, Release
from steps.monitor import MonitorConfig, run
from steps.monitor.monitor_log import open_monitor_log
from steps.monitor.reference import Reference
from steps.monitor.step import watch

MakeDataset = Callable[..., DatasetVersion]
Send = Callable[..., None]
NANO = MonitorConfig(run_length=100, window=10, min_sessions=60, num_bootstraps=200, max_tokens=16)


@pytest.fixture
def ctx(tmp_path: Path) -> AloneContext:
    return AloneContext(f"file://{tmp_path}/store", step="monitor", scratch=tmp_path)


def test_thirty_documents_are_enough_with_a_warning(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release
) -> None:
    result = run(NANO, make_dataset(ctx.blobs), release, ctx)
    assert (result.champion, result.num_reference, result.num_documents) == ("1", 60, 60)
    assert result.run_length == 100
    assert result.measured_run_length > 50
    assert set(result.detectors) == {"prompt_mmd", "scalars_ks"}
    assert result.metrics_url == "http://127.0.0.1:8000/metrics"
    assert any("passages of documents" in warning for warning in result.warnings)
    assert any("rough promise" in warning for warning in result.warnings)


def test_enough_traffic_needs_no_documents_and_no_warning(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release, send: Send, embedder: TextEmbedder
) -> None:
    send(ctx.store, "code", 0, 600)
    send(ctx.store, "food", 600, 100, version="0", writer="old-champion")
    config = MonitorConfig(run_length=200, min_sessions=500, max_reference=550)
    result = watch(config, make_dataset(ctx.blobs), release, ctx, embedder)
    assert (result.num_reference, result.num_documents) == (550, 0)
    assert result.warnings == ()
    assert result.reference is not None
    reference = Reference.from_bytes(ctx.blobs.get(result.reference))
    assert "cut_short" in reference.scalars.names
    state = open_monitor_log(ctx.store, "everloop").refresh()
    assert len(state.cursors) == 2
    assert len(state.sessions) == 512


def test_a_repeated_attempt_gives_the_same_and_records_nothing(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release, send: Send, embedder: TextEmbedder
) -> None:
    dataset = make_dataset(ctx.blobs)
    first = watch(NANO, dataset, release, ctx, embedder)
    send(ctx.store, "code", 0, 100)
    assert watch(NANO, dataset, release, ctx, embedder) == first
    assert open_monitor_log(ctx.store, "everloop").length == 1


def test_the_same_champion_keeps_its_reference_until_traffic_makes_a_better_one(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release, send: Send, embedder: TextEmbedder
) -> None:
    dataset = make_dataset(ctx.blobs)
    first = watch(NANO, dataset, release, ctx, embedder)
    ctx.token = "b" * 32
    held = replace(release, state="held")
    assert watch(NANO, dataset, held, ctx, embedder) == first
    send(ctx.store, "code", 0, 100)
    ctx.token = "c" * 32
    better = watch(NANO, dataset, held, ctx, embedder)
    assert (better.num_reference, better.num_documents) == (100, 0)
    ctx.token = "d" * 32
    newcomer = watch(NANO, dataset, replace(release, champion="2"), ctx, embedder)
    assert (newcomer.champion, newcomer.num_documents) == ("2", 60)


def test_without_a_champion_or_prompts_nothing_is_watched(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release, embedder: TextEmbedder
) -> None:
    dataset = make_dataset(ctx.blobs, num_documents=10, num_words=20)
    nobody = watch(NANO, dataset, replace(release, champion=None), ctx, embedder)
    assert (nobody.reference, nobody.warnings) == (None, ("there is no champion to watch",))
    poor = watch(NANO, dataset, release, ctx, embedder)
    assert poor.reference is None
    assert "10 prompts are too few" in poor.warnings[0]
    assert open_monitor_log(ctx.store, "everloop").length == 0


def test_reference_survives_its_file(
    ctx: AloneContext, make_dataset: MakeDataset, release: Release, embedder: TextEmbedder
) -> None:
    result = watch(NANO, make_dataset(ctx.blobs), release, ctx, embedder)
    assert result.reference is not None
    data = ctx.blobs.get(result.reference)
    again = Reference.from_bytes(Reference.from_bytes(data).to_bytes())
    first = Reference.from_bytes(data)
    assert again.config == NANO
    np.testing.assert_array_equal(again.mmd.points, first.mmd.points)
    np.testing.assert_array_equal(again.mmd.thresholds, first.mmd.thresholds)
    assert again.scalars.names == first.scalars.names
    assert b"pickle" not in data


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_reference": 50, "window": 20}, "max_reference=50"),
        ({"run_length": 25, "window": 30, "max_reference": 100}, "run_length=25"),
        ({"engine": "crystal-ball"}, "engine"),
        ({"windw": 3}, "windw"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MonitorConfig.model_validate(settings)
