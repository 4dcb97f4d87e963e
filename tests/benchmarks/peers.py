"""Bulk refresh against the refresh loops of django-esi and social-auth, which have one thread."""

from __future__ import annotations

from . import contenders
from .measuring import interleaved, spread
from .sizes import PEER_THREADS, Sizes
from .tables import Table


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    four = [
        contenders.ours(1),
        contenders.ours(PEER_THREADS),
        contenders.esi(),
        contenders.social(),
    ]
    one, many, esi, social = names = [contender.name for contender in four]
    pairs = [(one, esi), (many, esi), (one, social), (many, social)]
    head = ["database", "latency"]
    speed = Table("Refreshes a second; ours with 1 and 8 threads", [*head, *names])
    ratio = Table("The same as ratios", [*head, *(f"{a} / {b}" for a, b in pairs)])
    for latency in sizes.latencies:
        few, lots = sizes.rows(1, latency), sizes.rows(PEER_THREADS, latency)
        counts = [few, lots, few, few]
        runs = interleaved(four, counts, latency=latency, rounds=sizes.rounds, url=url)
        by_name = dict(zip(names, runs, strict=True))
        label = [database, f"{latency * 1000:.0f} ms"]
        speed.rows.append([*label, *(spread(run.per_second) for run in runs)])
        ratios = [spread(by_name[a].over(by_name[b]), 2) for a, b in pairs]
        ratio.rows.append([*label, *ratios])
    return [speed, ratio]
