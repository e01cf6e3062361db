"""`python -m steps.version`: looks at the versions of a dataset, names them, clears away; and runs the step alone.

python -m steps.version list              --storage URI [--name corpus] [--json]
python -m steps.version show VERSION      a number, `latest` or a tag
python -m steps.version diff A B
python -m steps.version tag VERSION NAME
python -m steps.version gc [--dry-run]
python -m steps.version run --storage URI --inputs validation.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from steps.common.alone import EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE
from steps.common.alone import main as run_alone
from steps.version.config import VersionConfig
from steps.version.errors import InvalidTagError, UnknownVersionError
from steps.version.history import collect, diff, tag
from steps.version.manifest import DatasetState, Manifest, open_dataset
from steps.version.step import run
from workflows.log import GRACE_S, Blobs, InvalidUri, Log, LogError, Store, open_store

Answer = tuple[Any, list[str]]
"""What `--json` prints, and the lines that people read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        return run_alone(run, VersionConfig, arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        store = open_store(options.storage)
        answer, lines = options.command(options, store, open_dataset(store, options.name))
    except (UnknownVersionError, InvalidTagError, InvalidUri) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_USE
    except LogError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    print(json.dumps(answer, indent=2) if options.json else "\n".join(lines))
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--storage", required=True, metavar="URI", help="file:///folder, a plain path or s3://bucket/prefix"
    )
    common.add_argument("--name", default=VersionConfig().name, help="the dataset (default: %(default)s)")
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="python -m steps.version", description="The versions of a dataset.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., Answer], text: str, *names: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text, parents=[common])
        subparser.set_defaults(command=command)
        for argument in names:
            subparser.add_argument(argument, metavar=argument.upper())
        return subparser

    add("list", _list, "All versions, oldest first.")
    add("show", _show, "One version: a number, `latest` or a tag.", "version")
    add("diff", _diff, "The documents by which two versions differ.", "before", "after")
    add("tag", _tag, "Gives a version a name; a name given before moves.", "version", "tag")
    collecting = add("gc", _gc, "Deletes blobs that nothing in the storage names, older than the grace.")
    collecting.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    collecting.add_argument(
        "--grace-s", type=float, default=GRACE_S, help="age to spare, seconds (default: %(default)s)"
    )
    commands.add_parser("run", help="Runs the step alone; `run --help` says how.", add_help=False)
    return parser


def _list(_: argparse.Namespace, __: Store, log: Log[DatasetState]) -> Answer:
    state = log.refresh()
    names: dict[int, list[str]] = {}
    for name, version in sorted(state.tags.items()):
        names.setdefault(version, []).append(name)
    answer = [_summary(manifest, names.get(manifest.version, [])) for manifest in state.versions]
    lines = [
        f"{'version':>7}  {'made at (UTC)':19}  {'train':>9} {'heldout':>8}  {'change':20}  {'bytes':>12}  run, tags"
    ]
    for row in answer:
        change = f"+{row['num_added']} ~{row['num_changed']} -{row['num_removed']}"
        lines.append(
            f"{row['version']:>7}  {row['created_at']:19}  {row['num_train']:>9,} {row['num_heldout']:>8,}  {change:20}"
            f"  {row['num_bytes']:>12,}  {' '.join([row['run_id'], *row['tags']])}"
        )
    return answer, lines if answer else ["no versions"]


def _summary(manifest: Manifest, tags: Sequence[str]) -> dict[str, Any]:
    result = asdict(manifest.result(""))
    kept = ("version", "digest", "num_train", "num_heldout", "num_bytes", "num_added", "num_changed", "num_removed")
    made_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.created_at))
    run_id = manifest.lineage.get("run_id", "")
    return {key: result[key] for key in kept} | {"created_at": made_at, "run_id": run_id, "tags": list(tags)}


def _show(options: argparse.Namespace, _: Store, log: Log[DatasetState]) -> Answer:
    state = log.refresh()
    manifest = state.find(options.name, options.version)
    tags = sorted(name for name, version in state.tags.items() if version == manifest.version)
    settings = None if state.settings is None else asdict(state.settings)
    answer = manifest.dump() | _summary(manifest, tags) | {"settings": settings}
    return answer, json.dumps(answer, indent=2).splitlines()


def _diff(options: argparse.Namespace, store: Store, log: Log[DatasetState]) -> Answer:
    state = log.refresh()
    found = diff(state.find(options.name, options.before), state.find(options.name, options.after), Blobs(store))
    lines = [
        f"{sign} {url}"
        for sign, urls in zip("+~-", (found.added, found.changed, found.removed), strict=True)
        for url in urls
    ]
    total = f"{len(found.added)} added, {len(found.changed)} changed, {len(found.removed)} removed"
    return asdict(found), [*lines, f"{total}; {found.num_shared_files} files shared"]


def _tag(options: argparse.Namespace, _: Store, log: Log[DatasetState]) -> Answer:
    manifest = tag(log, options.name, options.version, options.tag)
    return {"version": manifest.version, "tag": options.tag}, [f"{options.name} v{manifest.version} is {options.tag}"]


def _gc(options: argparse.Namespace, store: Store, _: Log[DatasetState]) -> Answer:
    found = collect(Blobs(store, grace_s=options.grace_s), dry_run=options.dry_run)
    verb = "would delete" if options.dry_run else "deleted"
    deleted = f"{verb} {len(found.deleted)} blobs, {found.deleted_bytes:,} bytes"
    return asdict(found), [f"{deleted}; {found.num_kept} named, {found.num_young} young"]


if __name__ == "__main__":
    raise SystemExit(main())
