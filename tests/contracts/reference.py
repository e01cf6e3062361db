"""Writes `docs/reference.md` from the code itself: `python tests/contracts/reference.py > docs/reference.md`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from pydantic import BaseModel

from steps.deploy.metrics import RouterMetrics
from steps.monitor.metrics import DriftCollector
from triggers import __main__ as triggers_command
from triggers.settings import Settings as DoorSettings
from workflows import reconcile, run, runs, serve
from workflows.configs import RECIPES, PipelineConfig
from workflows.engine import __main__ as engine_command
from workflows.metrics import loop_metrics
from workflows.outbox import __main__ as outbox_command
from workflows.outbox.settings import Receiver
from workflows.services import __main__ as services_command


def reference() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "Written from the code by `python tests/contracts/reference.py`; a test keeps it true.",
        "## Commands",
        *(_command(name, parser) for name, parser in _parsers()),
        "## Config",
        "`--set section.key=value`, or a TOML file of sections. Recipes change some of these defaults.",
        *(_section(name, field) for name, field in PipelineConfig.model_fields.items() if name != "recipe"),
        "## Recipes",
        "\n".join(f"- `{name}`: {(make.__doc__ or '').strip()}" for name, make in RECIPES.items()),
        "## Settings of the door",
        "The TOML file of `python -m triggers --settings FILE`.",
        _table(DoorSettings),
        "## Receivers of notifications",
        "Each `[[notify]]` in the TOML file of `python -m workflows.reconcile --settings FILE`.",
        _table(Receiver),
        "## Metrics",
        "On `/metrics` of the endpoint:",
        _metrics(),
        "On `/metrics` of the reconciler (`--metrics-port`):",
        _collected([*DriftCollector().collect(), *loop_metrics()]),
    ]
    return "\n\n".join(parts) + "\n"


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield "python -m workflows.run", run.parser()
    yield from _verbs("python -m workflows.runs", runs.parser())
    yield "python -m workflows.serve", serve._parser()
    yield "python -m workflows.reconcile", reconcile.parser()
    yield "python -m workflows.services", services_command.parser()
    yield from _verbs("python -m workflows.outbox", outbox_command.parser())
    yield "python -m workflows.engine", engine_command.parser()
    yield "python -m triggers", triggers_command.parser()


def _verbs(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, below in action.choices.items():
                yield f"{name} {verb}", below


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    rows = [f"### `{name}`", "", "| argument | meaning |", "| --- | --- |"]
    for action in parser._actions:
        if action.dest == "help":
            continue
        flag = action.option_strings[0] if action.option_strings else action.metavar or action.dest
        takes = f" {action.metavar}" if action.option_strings and action.metavar else ""
        about = (action.help or "").replace("%(default)s", str(action.default))
        rows.append(f"| `{flag}{takes}` | {about} |")
    return "\n".join(rows)


def _section(name: str, field: object) -> str:
    about = PipelineConfig.model_fields[name]
    title = about.alias or name
    rows = [f"### `{title}`", "", about.description or "", "", "| key | default | meaning |", "| --- | --- | --- |"]
    assert isinstance(about.annotation, type), "sections are models"
    rows += _rows(about.annotation, title)
    return "\n".join(rows)


def _rows(model: type[BaseModel], path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and name != "learning_rate":
            yield from _rows(field.annotation, f"{path}.{name}")
            continue
        default = field.get_default(call_default_factory=True)
        shown = default.model_dump_json() if isinstance(default, BaseModel) else json.dumps(default, default=str)
        yield f"| `{path}.{name}` | `{shown}` | {field.description} |".replace("|`", "| `")


def _metrics() -> str:
    rows = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in RouterMetrics().registry._collector_to_names:
        labels = ", ".join(getattr(family, "_labelnames", ()))
        kind = getattr(family, "_type", "")
        name = getattr(family, "_name", "") + ("_total" if kind == "counter" else "")
        rows.append(f"| `{name}` | {kind} | {labels} | {getattr(family, '_documentation', '')} |")
    return "\n".join(rows)


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = json.dumps(field.get_default(call_default_factory=True), default=str)
        rows.append(f"| `{name}` | {'' if field.is_required() else f'`{default}`'} | {field.description} |")
    return "\n".join(rows)


def _collected(families: Iterable[Metric]) -> str:
    rows = ["| metric | kind | meaning |", "| --- | --- | --- |"]
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(reference(), end="")
