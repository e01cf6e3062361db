"""Ray Data as the steps use it: quiet, and with few blocks when there is little data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.data import Dataset


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Lets plans that are made and run inside run without progress bars and statistics.

    The settings of the process are put back at the end: it may be a worker that other tasks use after this one.
    """
    from ray.data import DataContext

    with warnings.catch_warnings():
        # Making the defaults, Ray warns of its own deprecated settings.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.enable_stats_summary_collection = False
    # An error of a task is the step's error: raised as it was, without Ray's own trace around it.
    context.raise_original_map_exception = True
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)


def num_blocks(num_rows: int, rows_per_block: int, most: int) -> int:
    """Blocks to plan for: one for each `rows_per_block` rows begun, at least 1, at most `most`."""
    return max(1, min(most, -(-num_rows // rows_per_block)))


def gather(dataset: Dataset, key: str, num_blocks: int) -> Dataset:
    """Brings rows with equal values in a column into the same block.

    One block needs no hash: Ray shuffles by key in worker processes of their own, which take seconds to start.
    """
    return dataset.repartition(1) if num_blocks == 1 else dataset.repartition(num_blocks, keys=[key])
