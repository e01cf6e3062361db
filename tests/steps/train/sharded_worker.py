"""One of some processes that train together without Ray: `RANK WORLD_SIZE STRATEGY FOLDER [STATE]`.

Takes three steps, saves the state, takes two more, and writes losses and the final weights; or, given the digest of a
state, goes on from it with two steps.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from steps.common.language_model import (
    Hyperparameters,
    ModelConfig,
    RowOrder,
    build_model,
    make_optimizer,
    pack,
    save_model,
    train_step,
)
from steps.common.language_model.tokenizer import SpecialIds
from steps.train.sharding import shard, unsharded
from steps.train.state import gather_tensors, load_tensors, save_tensors
from workflows.log import Blobs, TreeRef, open_store

SPECIAL = SpecialIds(0, 1, 2)
SHAPE = ModelConfig(
    vocab_size=320, row_length=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64
)


def main(rank: int, world_size: int, strategy: str, folder: Path, state: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        store = torch.distributed.FileStore(str(folder / f"meet-{strategy}-{bool(state)}"), world_size)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    blobs = Blobs(open_store(f"file://{folder}/storage"))
    rows = pack([[1, *range(3 + n, 40 + n), 2] for n in range(40)], 64, SPECIAL.pad)
    model: Any = build_model(SHAPE, 320, SPECIAL, 0)
    if strategy == "fsdp":
        shard(model)
    optimizer = make_optimizer(model, Hyperparameters())
    if state:
        load_tensors(model, optimizer, blobs, TreeRef(**json.loads(state)))
    parallel = torch.nn.parallel.DistributedDataParallel(model) if strategy == "ddp" and world_size > 1 else model
    order, losses, tree = RowOrder(len(rows), 0), [], None
    for step in range(3 if state else 0, 5):
        if step == 3 and not state:
            tensors = gather_tensors(model, optimizer)
            tree = save_tensors(tensors, blobs) if rank == 0 else None
        part = train_step(
            parallel, optimizer, rows, order.take(step * 8, 8),
            rate=1e-2, rows_per_microbatch=2, rank=rank, world_size=world_size,
        )  # fmt: skip
        total = torch.tensor([part], dtype=torch.float64)
        if world_size > 1:
            torch.distributed.all_reduce(total)
        losses.append(float(total))
    plain = unsharded(model) if strategy == "fsdp" else model
    if rank == 0:
        name = f"{strategy}-{world_size}" + ("-resumed" if state else "")
        save_model(plain, {}, folder / name)
        described = None if tree is None else {"sha256": tree.sha256, "size": tree.size, "num_files": tree.num_files}
        (folder / f"{name}.json").write_text(json.dumps({"losses": losses, "state": described}))
    if world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), "".join(sys.argv[5:]))
