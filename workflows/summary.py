"""What a run came to: one dictionary, shown as JSON or as text, and written out as a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steps.common.releases import open_release_log
from steps.common.results import DatasetVersion, Evaluation, ModelVersion, Release, TuningResult
from workflows.engine import Engine, NoOutput, RunView, StepNotFound
from workflows.log import Store
from workflows.report import render

STEPS = ("scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor")


def results_of(engine: Engine, view: RunView) -> dict[str, Any]:
    """The results that a run has so far, by step."""
    found: dict[str, Any] = {}
    for name in STEPS:
        try:
            found[name] = engine.output(view.run_id, name)
        except (NoOutput, StepNotFound):
            continue
    return found


def summarize(engine: Engine, view: RunView, report: str | None = None) -> dict[str, Any]:
    """Gives the fields that `--json` prints.

    Args:
        engine: The engine that knows the run.
        view: The run.
        report: Where its report is.
    """
    results = results_of(engine, view)
    dataset: DatasetVersion | None = results.get("version")
    tuning: TuningResult | None = results.get("tune")
    model: ModelVersion | None = results.get("train")
    evaluation: Evaluation | None = results.get("evaluate")
    release: Release | None = results.get("deploy")
    return {
        "run_id": view.run_id,
        "status": view.status,
        "reason": view.reason,
        "steps": [
            {
                "name": step.name,
                "status": step.status,
                "attempts": step.attempts,
                "started_at": step.started_at,
                "finished_at": step.finished_at,
                "error": step.error.message if step.error else None,
            }
            for step in view.steps
        ],
        "waits": [{"name": wait.name, "kind": wait.kind} for wait in view.waits],
        "endpoint": release.endpoint if release else None,
        "alias": release.alias if release else None,
        "dataset_version": str(dataset) if dataset else None,
        "dataset_rows": dataset.num_train + dataset.num_heldout if dataset else None,
        "dataset_bytes": dataset.num_bytes if dataset else None,
        "best_trial": {"name": tuning.best.name, "loss": tuning.best.loss, **tuning.best.params} if tuning else None,
        "model_version": model.version if model else None,
        "scores": _scores(model, evaluation),
        "verdict": evaluation.verdict if evaluation else None,
        "verdict_reasons": list(evaluation.reasons) if evaluation else [],
        "release": release.state if release else None,
        "release_reasons": list(release.reasons) if release else [],
        "report": report,
    }


def text(summary: Mapping[str, Any]) -> str:
    """Lays the summary out for people."""
    lines = [f"run {summary['run_id']}: {summary['status']}" + (f" ({summary['reason']})" if summary["reason"] else "")]
    if summary["dataset_version"]:
        size = f"{summary['dataset_rows']:,} documents, {summary['dataset_bytes'] / 2**20:.2f} MiB"
        lines.append(f"  dataset    {summary['dataset_version']}, {size}")
    if summary["best_trial"]:
        trial = dict(summary["best_trial"])
        name, loss = trial.pop("name"), trial.pop("loss")
        values = ", ".join(f"{key} {value:.4g}" for key, value in trial.items())
        lines.append(f"  best trial {name}, loss {loss:.4f} ({values})")
    if summary["scores"]:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in summary["scores"].items())
        lines.append(f"  model      version {summary['model_version']}: {scores}")
    for name, reasons in (("verdict", "verdict_reasons"), ("release", "release_reasons")):
        if summary[name]:
            lines.append(f"  {name:<10} {summary[name]}: {' '.join(summary[reasons])}")
    if summary["endpoint"]:
        body = json.dumps({"model": summary["alias"], "prompt": "The module provides", "max_tokens": 32})
        url = f"{summary['endpoint']}/v1/completions"
        lines += [
            f"  endpoint   {summary['endpoint']}",
            f"             curl -s {url} -H 'Content-Type: application/json' -d '{body}'",
        ]
    if summary["report"]:
        lines.append(f"  report     {summary['report']}")
    return "\n".join(lines)


def write_report(engine: Engine, view: RunView, folder: Path) -> Path:
    """Writes `report.html` of a run and gives its path."""
    results = results_of(engine, view)
    config = engine.config(view.run_id)
    model: ModelVersion | None = results.get("train")
    curve = json.loads(engine.blobs.get(model.loss_curve)) if model else []
    page = render(
        view,
        config.recipe,
        results,
        loss_curve=curve,
        looks=_looks(engine.store, results.get("deploy")),
        log10_limit=-math.log10(config.deploy.alpha),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _scores(model: ModelVersion | None, evaluation: Evaluation | None) -> dict[str, float]:
    if model is None:
        return {}
    scores = {"heldout_loss": model.heldout_loss, "unigram_loss": model.unigram_loss, "train_loss": model.train_loss}
    if evaluation is not None:
        scores["perplexity"] = evaluation.perplexity
    return scores


def _looks(store: Store, release: Release | None) -> list[dict[str, float]]:
    if release is None or release.rollout_id is None:
        return []
    looks: list[dict[str, float]] = []
    weight = 0.0
    for record in open_release_log(store, release.alias).records():
        if record.data.get("rollout_id") != release.rollout_id:
            continue
        weight = float(record.data.get("weight", weight))
        evidence = record.data.get("evidence")
        if evidence:
            e_value = max(float(evidence["e_value"]), 1e-12)
            looks.append({"look": len(looks) + 1, "weight": weight, "log10_evidence": math.log10(e_value)})
    return looks
