"""What is measured: the defaults are the full run."""

from __future__ import annotations

from dataclasses import dataclass

PEER_THREADS = 8
#: Requests a second that no contender is expected to pass, to choose how many rows it gets.
FASTEST = 1000.0


@dataclass(frozen=True)
class Sizes:
    """Latencies are in seconds, as are ``seconds`` (of one run) and ``rate_limit_seconds``."""

    rounds: int = 5
    seconds: float = 1.0
    latencies: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)
    threads: tuple[int, ...] = (1, 4, 8, 16)
    accounts: tuple[int, ...] = (1_000, 10_000, 100_000)
    due: int = 500
    #: How many are due among how many.
    large: tuple[int, int] = (20_000, 1_000_000)
    due_among: tuple[int, ...] = (10_000, 1_000_000)
    per_minute: int = 600
    rate_limit_seconds: float = 180.0

    def rows(self, threads: int, latency: float) -> int:
        """As many as fill a run, and so many for each thread that its start does not count."""
        per_second = min(FASTEST, threads / (latency + 0.001))
        return max(int(per_second * self.seconds), int(30 * self.seconds) * threads)
