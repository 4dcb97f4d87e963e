"""What a run has begun: each account's steps, until a response has come or a time is over."""

from __future__ import annotations

import heapq
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from django_ilert_oauth.flows._lease import Snapshot
from django_ilert_oauth.flows._refresh_request import Outcome
from django_ilert_oauth.flows._steps import Steps
from django_ilert_oauth.oauth.transport import clock

from .rate_limiter import MAX_NAP


@dataclass(eq=False)
class Task:
    snapshot: Snapshot
    steps: Steps[Outcome | None]
    #: A future that is to be done, or seconds.
    awaited: Future[Any] | float = 0.0


class WaitingTasks:
    def __init__(self) -> None:
        self._ready: SimpleQueue[Task] = SimpleQueue()
        self._sleeping: list[tuple[float, int, Task]] = []
        self._numbers = count()

    def add(self, task: Task) -> None:
        if isinstance(task.awaited, Future):
            task.awaited.add_done_callback(lambda _future: self._ready.put(task))
        else:
            heapq.heappush(self._sleeping, (clock() + task.awaited, next(self._numbers), task))

    def pop(self) -> Task:
        """The next that need not wait any more; waits for it itself."""
        while True:
            if self._sleeping and self._sleeping[0][0] <= clock():
                return heapq.heappop(self._sleeping)[2]
            nap = self._sleeping[0][0] - clock() if self._sleeping else MAX_NAP
            try:
                return self._ready.get(timeout=max(nap, 0.0))
            except Empty:
                continue
