"""Runs one step by itself, without the engine: what `python -m steps.<name>` and the tests of the steps use.

Takes a storage URI, the step's configuration and the results of the steps before it; gives the step's result as JSON.
A re-run with the same inputs is the next attempt at the same step: it has the same token, and finds the checkpoints of
the attempts before it, which lie below `alone/<step>/<token>/` in the storage.

    python -m steps.scrape --storage /tmp/el --set max_pages=20 > crawl.json
    python -m steps.validate --storage /tmp/el --inputs crawl.json
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import logging
import shutil
import sys
import tempfile
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from steps.common.context import Checkpoint
from workflows.log import AlreadyExists, Blobs, LogError, decode, encode, open_store

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=BaseModel)

_MAX_RESULT_BYTES = 2**24  # a result is read by people and by the next step, so it stays whole
EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130


class WrongUseError(ValueError):
    """The command line or a file named on it cannot be used; the message names the key and the value."""


class AloneContext:
    """The surroundings of one attempt at a step that no engine runs. Satisfies `StepContext`.

    Nobody else holds the run, so `fence` always returns. Use it as a context manager: the scratch folder goes at the
    end, unless it was given.

    Args:
        storage: Storage URI, or a plain path.
        step: Name of the step.
        inputs: What the step is run with, as JSON values; with the name it makes the token.
        scratch: Local folder to work in; made and removed when not given.
    """

    def __init__(self, storage: str, *, step: str, inputs: Any = None, scratch: Path | None = None) -> None:
        identity = json.dumps([step, inputs], sort_keys=True, separators=(",", ":"))
        self.token = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self.run_id = f"alone-{self.token[:12]}"
        self.step_id = step
        self.epoch = 1
        self.store = open_store(storage)
        self.blobs = Blobs(self.store)
        self._prefix = f"alone/{step}/{self.token}"
        self.attempt = self._next_attempt()
        self.previous: Sequence[Checkpoint] = tuple(self._read_checkpoints())
        self._num_checkpoints = 0
        self._own_scratch = scratch is None
        self.scratch = scratch if scratch is not None else Path(tempfile.mkdtemp(prefix=f"everloop-{step}-"))

    def __enter__(self) -> AloneContext:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own_scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def fence(self) -> None:
        """Returns: no other runner can claim a run that no engine knows."""

    def checkpoint(self, name: str, data: Any) -> None:
        """Stores a finished part of the step; the next attempt finds it in `previous`."""
        self._num_checkpoints += 1
        key = f"{self._prefix}/checkpoints/{self.attempt:06d}-{self._num_checkpoints:06d}.json"
        document = {"attempt": self.attempt, "name": name, "data": encode(data, self.blobs)}
        self.store.create(key, json.dumps(document).encode())

    def progress(
        self, done: float, total: float, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Logs how far the step is."""
        shown = "".join(f" {name}={value:.4g}" for name, value in (metrics or {}).items())
        logger.info("%s: %g of %g %s%s", self.step_id, done, total, message, shown)

    def _next_attempt(self) -> int:
        prefix = f"{self._prefix}/attempts/"
        attempt = 1 + sum(1 for _ in self.store.list(prefix))
        while True:
            try:
                self.store.create(f"{prefix}{attempt:06d}.json", b"{}")
            except AlreadyExists:
                attempt += 1
            else:
                return attempt

    def _read_checkpoints(self) -> Iterator[Checkpoint]:
        for found in self.store.list(f"{self._prefix}/checkpoints/"):
            document = json.loads(self.store.get(found.key))
            yield Checkpoint(document["attempt"], document["name"], decode(document["data"], self.blobs))


def main(run: Callable[..., Any], config_type: type[BaseModel], argv: Sequence[str] | None = None) -> int:
    """Runs a step from the command line: `raise SystemExit(main(run, ScrapeConfig))`.

    The parameters of `run` between `config` and `ctx` say what the step needs. Those that are configurations (pydantic
    models) come from `--config` and `--set`, like the step's own; the others are read from `--inputs`, by name
    (`dataset=FILE`) or by the type recorded in the file; one that allows None may be left out.

    Args:
        run: The step: `run(config, <inputs>, ctx)`.
        config_type: Type of its configuration.
        argv: Arguments without the program's name; those of the process when not given.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    step = run.__module__.split(".")[1] if run.__module__.startswith("steps.") else run.__module__
    options = _parser(step, run).parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        with _surroundings(options, step, run, config_type) as (config, inputs, ctx):
            result = run(config, **inputs, ctx=ctx)
            print(json.dumps(encode(result, ctx.blobs, inline_max_bytes=_MAX_RESULT_BYTES), indent=2))  # noqa: T201 - the output
    except WrongUseError as error:
        logger.error("%s", error)  # noqa: TRY400 - a usage message, not a traceback
        return EXIT_WRONG_USE
    except KeyboardInterrupt:
        logger.warning("%s: interrupted; the same command goes on from the last checkpoint", step)
        return EXIT_INTERRUPTED
    except Exception:
        logger.exception("%s failed; the same command goes on from the last checkpoint", step)
        return EXIT_FAILED
    return EXIT_DONE


def _parser(step: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m steps.{step}",
        description=(inspect.getdoc(sys.modules.get(run.__module__)) or "").partition("\n")[0],
    )
    add = parser.add_argument
    add("--storage", required=True, metavar="URI", help="file:///folder, a plain path or s3://bucket/prefix")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting; the value is JSON or a bare word")
    add("--config", type=Path, metavar="FILE.toml", help=f"settings in a table [{step}], as in a recipe file")
    add("--inputs", action="append", default=[], metavar="[NAME=]FILE.json", help="what a step before printed")
    return parser


@contextmanager
def _surroundings(
    options: argparse.Namespace, step: str, run: Callable[..., Any], config_type: type[BaseModel]
) -> Iterator[tuple[BaseModel, dict[str, Any], AloneContext]]:
    wanted = _parameters(run)
    config_types = {name: kind for name, kind in wanted.items() if _is_config(kind)}
    settings = read_settings(options.config, options.set, step=step, sections=tuple(config_types))
    config = build_config(config_type, settings[step], section=step)
    configs = {name: build_config(kind, settings[name], section=name) for name, kind in config_types.items()}
    documents = _read_inputs(options.inputs, {name: kind for name, kind in wanted.items() if name not in configs})
    try:
        ctx = AloneContext(options.storage, step=step, inputs={"config": settings, "inputs": documents})
        inputs = {name: decode(document, ctx.blobs) for name, document in documents.items()}
    except LogError as error:
        raise WrongUseError(f"--storage {options.storage}: {error}") from error
    with ctx:
        yield config, {**configs, **inputs}, ctx


def _parameters(run: Callable[..., Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(run)
    return {name: hints[name] for name in inspect.signature(run).parameters if name not in ("config", "ctx")}


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def read_settings(
    path: Path | None, assignments: Sequence[str], *, step: str, sections: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Reads settings from a TOML file and `key=value` assignments, the latter on top.

    Args:
        path: A file with a table per section, or None.
        assignments: `key=value` or `section.key=value`; a value is JSON, or a bare word that is taken as text.
        step: The section of keys without one.
        sections: Other sections that are allowed.

    Returns:
        The settings of each section.

    Raises:
        WrongUseError: The file is no TOML, or an assignment has no key or a broken value.
    """
    settings: dict[str, dict[str, Any]] = {name: {} for name in (step, *sections)}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise WrongUseError(f"--config {path}: {error}") from error
        for name, known in settings.items():
            table = document.get(name, {})
            if not isinstance(table, dict):
                raise WrongUseError(f"--config {path}: {name} must be a table")
            known.update(table)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not key or not equals:
            raise WrongUseError(f"--set {assignment}: must be KEY=VALUE")
        section, *rest = key.split(".")
        target, names = (
            (settings[section], rest) if section in settings and rest else (settings[step], [section, *rest])
        )
        for name in names[:-1]:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise WrongUseError(f"--set {assignment}: {name} is not a group of settings")
        target[names[-1]] = _value(assignment, text)
    return settings


def _value(assignment: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if text[:1] in ("[", "{", '"'):
            raise WrongUseError(f"--set {assignment}: the value is broken JSON: {error}") from error
        return text


def build_config(config_type: type[ConfigT], settings: Mapping[str, Any], *, section: str) -> ConfigT:
    """Makes a configuration from settings.

    Raises:
        WrongUseError: A key is unknown or a value impossible; the message names each.
    """
    try:
        return config_type.model_validate(dict(settings))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join([section, *map(str, problem["loc"])])
            problems.append(f"{key}={problem['input']!r}: {problem['msg']}")
        raise WrongUseError("; ".join(problems)) from error


def _read_inputs(arguments: Sequence[str], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `[NAME=]FILE.json` arguments into the parameters that are wanted: as JSON values, not decoded yet."""
    documents: dict[str, Any] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or name not in wanted:
            name, path = "", argument
        try:
            document = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise WrongUseError(f"--inputs {argument}: {error}") from error
        name = name or _parameter_for(document, argument, wanted, documents)
        documents[name] = document
    missing = [name for name, kind in wanted.items() if name not in documents and not _allows_none(kind)]
    if missing:
        raise WrongUseError(f"missing --inputs for {', '.join(missing)}: the JSON that the step before printed")
    return {name: documents.get(name) for name in wanted}


def _parameter_for(document: Any, argument: str, wanted: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    recorded = document.get("$type", "") if isinstance(document, dict) else ""
    for name, kind in wanted.items():
        accepted = typing.get_args(kind) or (kind,)
        if name not in taken and any(recorded == f"{each.__module__}:{each.__qualname__}" for each in accepted):
            return name
    expected = ", ".join(wanted) or "nothing"
    raise WrongUseError(f"--inputs {argument}: holds {recorded or 'no result'}, the step wants {expected}")


def _allows_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)
