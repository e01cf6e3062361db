"""The cases of `tests.bench.scale`: each fills a storage with `size` of something and measures what is done with it.

What only stands there to be read is written straight, several at a time and without fsync; what is measured goes the
way that the product goes.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from steps.common import signals
from steps.scrape.config import ScrapeConfig
from steps.scrape.frontier import CrawlLog, open_frontier
from steps.scrape.pages import Page
from steps.scrape.plan import Plan
from steps.scrape.source import open_source
from steps.version.history import collect, diff
from steps.version.manifest import BucketFile, Manifest, open_dataset
from tests.bench.parts.meter import Meter
from tests.bench.parts.sink import accepting, post_notices
from triggers.loop import DurableLoop
from workflows.access import Directory
from workflows.configs import RECIPES, PipelineConfig
from workflows.engine import Engine, step
from workflows.engine.due import DueRuns
from workflows.engine.index import RunIndex
from workflows.log import Blobs, Draft, Log, Record, Store, open_store, stored_records
from workflows.log.record import FIRST, digest, record_key, seal
from workflows.metrics import LoopCollector
from workflows.outbox import Dispatcher, open_outbox
from workflows.pipeline import build
from workflows.reconcile import Reconciler

Case = Callable[[Meter, str, int], None]
HOUR_S = 3600.0
PAGES_PER_SOURCE = 20
NUM_WRITERS = 16


class _Reached(Exception):
    """Ray would be asked now."""


@step
def add_one(x: int) -> int:
    return x + 1


def chain(config: dict[str, Any]) -> Any:
    node: Any = 0
    for _ in range(config["length"]):
        node = add_one.bind(node)
    return node


def journal(meter: Meter, storage: str, size: int) -> None:
    """A run of that many steps, one record each, written as a runner writes it."""

    def reached() -> None:
        raise _Reached

    engine = Engine(storage, connect=reached)
    with meter("start a run"):
        run_id = engine.start(chain, {"length": size})
    log = Log(engine.store, f"runs/{run_id}", engine._fold)
    names = list(log.state.steps)
    ago = {"replaces": None, "runner": {"pid": 0}, "at": time.time() - HOUR_S}
    log.append(lambda _: Draft("claimed", ago, epoch=1))
    slowest = (0.0, 0.0)
    with meter("append a record", times=size - 1):
        for index, (name, after) in enumerate(itertools.pairwise(names)):
            data = {"done": [[name, index]], "started": [[after, 1]]}
            began = time.perf_counter(), time.process_time()
            log.append(lambda _, data=data: Draft("advanced", data, epoch=1))  # type: ignore[misc]
            slowest = max(slowest, (time.process_time() - began[1], time.perf_counter() - began[0]))
    meter.say("append a record, the slowest", slowest[1], slowest[0])
    with meter("open"):
        assert len(Log(engine.store, log.name, engine._fold).state.steps) == size
    with meter("open and append one record"):
        Log(engine.store, log.name, engine._fold).append(lambda _: Draft("noted", {}, epoch=1))
    with meter("look for news"):
        log.refresh()
    log.refresh()
    with meter("look for news again, none"):
        log.refresh()
    with meter("list the run"):
        assert engine.list(among=[run_id])[0].status == "running"
    with meter("resume, until Ray is asked"):
        try:
            engine.drive(run_id)
        except _Reached:
            pass
        else:
            raise AssertionError("the run had a step to run")


def runs(meter: Meter, storage: str, size: int) -> None:
    """That many finished runs of the loop."""
    engine = Engine(storage)
    config = RECIPES["nano"]()
    _copy_runs(storage, _finished_run(config), [f"run-{number:06}" for number in range(size)])
    with meter("ids of all runs"):
        assert len(engine.run_ids()) == size
    with meter("`runs list`"):
        assert len(RunIndex(engine).list()) == size
    from workflows.api import Loop

    door = DurableLoop(Loop(storage, engine=Engine(storage)), Directory(), {}, lambda _: None)
    with meter("door: list, the first time"):
        assert len(door.list_runs()) == size
    with meter("door: list again"):
        assert len(door.list_runs()) == size
    collector = LoopCollector(engine.store)
    with meter("metrics: the first page"):
        list(collector.collect())
    with meter("metrics: look for news"):
        assert not collector.unfinished_runs()


def reconcile(meter: Meter, storage: str, size: int) -> None:
    """That many runs under way, each driven by a living runner somewhere else, each of an alias of its own."""
    names = [f"run-{number:06}" for number in range(size)]
    config = RECIPES["nano"]()
    records = _finished_run(config)[:5]
    store = open_store(storage)
    _copy_runs(storage, records, names)
    _in_parallel(
        partial(_make_alias, store, config), ((f"alias-{number:04}", name) for number, name in enumerate(names))
    )
    reconciler = Reconciler(storage, launch=_never)
    for what in ("a round, the first", "a round, idle"):
        _keep_alive(store, names)
        with meter(what):
            done = reconciler.round()
        assert (done.problems, done.resumed) == ((), ()), done
    due = DueRuns(Engine(storage))
    for what in ("which runs are due, the first look", "which runs are due"):
        _keep_alive(store, names)
        with meter(what):
            assert not due.look(names)


def dataset(meter: Meter, storage: str, size: int) -> None:
    """Versions of that many files each, of which a hundredth changes."""
    store = open_store(storage)
    blobs = Blobs(store)
    file = blobs.put(_parquet())
    files = tuple(
        BucketFile(bucket=bucket, sha256=_name(bucket), num_bytes=file.size, num_rows=1, num_heldout=0)
        for bucket in range(size)
    )
    log = open_dataset(store, "corpus")
    for version in range(1, 4):
        # What changes is the one real file, so that a diff has something to read.
        changed = tuple(replace(each, sha256=file.sha256) if each.bucket % 100 == version else each for each in files)
        manifest = Manifest(
            version=version, parent=version - 1, operation=f"op-{version}", schema="s" * 64, digest=f"{version:064x}",
            files=changed, num_added=1, num_changed=0, num_removed=0, lineage={},
        )  # fmt: skip
        draft = Draft("version", manifest.dump())
        with meter(f"commit version {version}"):
            log.append(lambda _, draft=draft: draft)  # type: ignore[misc]
    with meter("open the dataset"):
        state = open_dataset(store, "corpus").refresh()
    with meter("compare a version with itself"):
        assert diff(state.versions[0], state.versions[0], blobs).num_shared_files == size


def tree(meter: Meter, storage: str, size: int) -> None:
    """A tree of that many small files: written, read, collected."""
    store = open_store(storage)
    blobs = Blobs(store)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(size):
            path = folder / f"{number % 100:02}" / f"{number:06}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"file {number}".encode())
        with meter("keep"):
            ref = blobs.put_tree(folder)
        with meter("keep again, nothing changed"):
            assert blobs.put_tree(folder) == ref
    with meter("open its manifest"):
        assert len(blobs.tree(ref)) == size
    files = {path: {"sha256": each.sha256, "num_bytes": each.size} for path, each in blobs.tree(ref).items()}
    named = Log(store, "runs/names-it", _Nothing())
    named.append(lambda _: Draft("made", {"sha256": ref.sha256, "size": ref.size, "num_files": ref.num_files}))
    bare = Log(store, "datasets/names-each", _Nothing())
    rows = list(files.values())
    for start in range(0, size, 4000):
        part = rows[start : start + 4000]
        bare.append(lambda _, part=part: Draft("version", {"files": part}))  # type: ignore[misc]
    with meter("collect garbage, none"):
        assert not collect(blobs, dry_run=True).deleted


def sources(meter: Meter, storage: str, size: int) -> None:
    """A crawl of that many sites of twenty pages each, without the network."""
    store = open_store(storage)
    with meter("read the configuration"):
        config = ScrapeConfig(
            seeds=tuple(f"https://site-{number:05}.example/" for number in range(size)),
            max_pages=size * PAGES_PER_SOURCE, num_fetchers=8,
        )  # fmt: skip
    with open_source(config, Path()) as source:
        log = CrawlLog(open_frontier(store, "sites"), "crawl-1", (1, 1))
        log.begin()
        plan = Plan(source, {}, max_pages=config.max_pages, batch_size=config.batch_size, num_fetchers=8)
        planning, recording = _Watch(), _Watch()
        planning.start()
        plan.begin()
        in_flight = plan.next_batches()
        while in_flight:
            batch = in_flight.pop(0)
            plan.landed(batch)
            pages = [_page(request.url) for request in batch.requests]
            for page in pages:
                plan.done(page, page.links)
            planning.stop()
            recording.start()
            log.record_batch(pages, None)
            recording.stop()
            planning.start()
            _ = plan.num_total
            in_flight += plan.next_batches()
        planning.stop()
    assert plan.num_asked == size * PAGES_PER_SOURCE, plan.num_asked
    meter.say("plan all pages", planning.seconds, planning.cpu_s)
    meter.say("record all pages", recording.seconds, recording.cpu_s)
    with meter("open the frontier"):
        frontier = open_frontier(store, "sites").refresh()
    with meter("begin the next crawl: plan what is known"):
        again = Plan(source, frontier.pages, max_pages=config.max_pages, batch_size=16, num_fetchers=8)
        again.begin()
        again.next_batches()


def outbox(meter: Meter, storage: str, size: int) -> None:
    """That many notices for one receiver that answers at once."""
    store = open_store(storage)
    with meter("post a notice", times=size):
        post_notices(store, size)
    with accepting() as receiver:
        dispatcher = Dispatcher(store, [receiver])
        with meter("find all, take the first fifty in hand"):
            assert dispatcher.round().found == size
        with meter("open with all that waits"):
            open_outbox(store).refresh()
        with meter("deliver one, with its receipt", times=size):
            dispatcher.wait()
            while dispatcher.round().claimed:
                dispatcher.wait()
        assert open_outbox(store).refresh().num_outcomes == {("sink", "delivered"): size}
        with meter("a round with nothing to do"):
            dispatcher.round()


CASES: Mapping[str, Case] = {
    "journal": journal, "runs": runs, "reconcile": reconcile, "dataset": dataset, "tree": tree, "sources": sources,
    "outbox": outbox,
}  # fmt: skip


def _finished_run(config: PipelineConfig) -> list[Record]:
    """The records of a run of the loop with results of a usual size."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(folder)
        run_id = engine.start(build, config, labels={"alias": config.deploy.alias, "recipe": config.recipe})
        log = Log(engine.store, f"runs/{run_id}", engine._fold)
        log.append(lambda _: Draft("claimed", {"replaces": None, "runner": {"pid": 0}, "at": time.time()}, epoch=1))
        for name in log.state.steps:
            data = {"done": [[name, {"result": "x" * 400}]], "started": [], "at": time.time()}
            log.append(lambda _, data=data: Draft("advanced", data, epoch=1))  # type: ignore[misc]
        log.append(lambda _: Draft("succeeded", {"at": time.time()}, epoch=1))
        return list(stored_records(engine.store, log.name))


def _copy_runs(storage: str, records: Sequence[Record], names: Sequence[str]) -> None:
    store = open_store(storage)

    def copy(run_id: str) -> None:
        first = replace(records[0], data={**records[0].data, "run_id": run_id})
        _write_log(store, f"runs/{run_id}", [first, *records[1:]])

    _in_parallel(copy, names)


def _make_alias(store: Store, config: PipelineConfig, names: tuple[str, str]) -> None:
    alias, run_id = names
    log = signals.open_signal_log(store, alias)
    found = signals.signal(alias, "manual", window="w", champion=None, evidence={"by": "bench"})
    signals.admit(log, found, config.signals, now=time.time(), override_by="bench", request={}, run_id=run_id)
    signals.started(log, run_id)


def _keep_alive(store: Store, names: Iterable[str]) -> None:
    _in_parallel(lambda name: store.put(f"runs/{name}/live/{1:08}", b'{"ended":false}'), names)


def _write_log(store: Store, name: str, records: Sequence[Record]) -> None:
    previous = FIRST
    for index, record in enumerate(records):
        sealed = seal(name, replace(record, index=index, previous=previous))
        previous = digest(sealed)
        _write(store, record_key(name, index), sealed)


def _write(store: Store, key: str, data: bytes) -> None:
    if not store.uri.startswith("file://"):
        store.put(key, data)
        return
    path = Path(store.uri.removeprefix("file://")) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _in_parallel(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        for _ in pool.map(work, items):
            pass


def _page(url: str) -> Page:
    site = url.partition("//")[2].partition("/")[0]
    links = tuple(f"https://{site}/{number}" for number in range(1, PAGES_PER_SOURCE))
    return Page(url=url, crawl="crawl-1", outcome="changed", status=200, links=links, text_sha256="0" * 64)


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from steps.common.dataset import DATASET_SCHEMA

    sink = pa.BufferOutputStream()
    pq.write_table(DATASET_SCHEMA.empty_table(), sink)
    return bytes(sink.getvalue())


def _name(number: int) -> str:
    return f"{number:064x}"


def _never(run_id: str) -> Any:
    raise AssertionError(f"{run_id} is driven elsewhere")


class _Watch:
    """Adds up stretches of time."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0

    def start(self) -> None:
        self.seconds -= time.perf_counter()
        self.cpu_s -= time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter()
        self.cpu_s += time.process_time()


class _Nothing:
    """A fold that keeps nothing."""

    def initial(self) -> None:
        return None

    def apply(self, state: None, record: Record) -> None:
        return None

    def dump(self, state: None) -> None:
        return None

    def load(self, data: Any) -> None:
        return None
