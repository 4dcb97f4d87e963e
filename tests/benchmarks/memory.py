"""The most memory that a run takes. Each size has a process of its own."""

from __future__ import annotations

import resource

from . import contenders
from .measuring import interleaved
from .sizes import Sizes
from .tables import Table

THREADS = 4


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    head = ["database", "accounts", "peak MB", "refreshes a second"]
    table = Table("Memory of a complete run", head)
    for count in sizes.accounts:
        ours = [contenders.ours(THREADS)]
        [runs] = interleaved(ours, [count], latency=0, rounds=1, url=url)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.rows.append([database, f"{count:,}", f"{peak:.1f}", f"{runs.per_second[0]:.0f}"])
    return [table]
