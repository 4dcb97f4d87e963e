"""How much is measured, how it is repeated, and how numbers are written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from . import endpoint
from .contenders import Contender


@dataclass
class Runs:
    """Of one contender, one after the other."""

    per_second: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def over(self, other: Runs) -> list[float]:
        """Run by run, since each two were made under the same weather."""
        return [
            ours / theirs for ours, theirs in zip(self.per_second, other.per_second, strict=True)
        ]


def interleaved(
    contenders: Sequence[Contender], counts: Sequence[int], *, latency: float, rounds: int, url: str
) -> list[Runs]:
    """A B C A B C ..., each over as many rows as its count says, counted at the endpoint."""
    runs = [Runs() for _ in contenders]
    for _ in range(rounds):
        for contender, count, run in zip(contenders, counts, runs, strict=True):
            _measure(contender, count, run, latency, url)
    return runs


def _measure(contender: Contender, count: int, runs: Runs, latency: float, url: str) -> None:
    contender.fill(count)
    endpoint.restart(url, latency=latency)
    started, cpu = time.perf_counter(), time.process_time()
    contender.run(count)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    seen = endpoint.restart(url)
    if seen.served != count:
        raise RuntimeError(f"{contender.name}: {seen.served} requests instead of {count}")
    runs.per_second.append(count / seconds)
    runs.cpu_seconds.append(cpu / count)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the least and the most."""
    least, middle, most = (
        f"{value:.{digits}f}" for value in (min(values), median(values), max(values))
    )
    return middle if least == most else f"{middle} ({least}-{most})"
