"""Threads that wait for ilert, so that nobody else waits longer than until a deadline.

A blocking call cannot be ended from within: a name resolution takes as long as it takes, and the
timeout of a socket begins again with each byte.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Condition, Thread, current_thread
from typing import Any, Generic, TypeVar

from django_ilert_oauth.exceptions import IlertUnavailableError

from .transport import (
    ClientSession,
    Exchange,
    clock,
    current_exchange,
    open_session,
    strip_frames,
    timed_out,
)

T = TypeVar("T")
Call = Callable[[ClientSession, Exchange], T]

logger = logging.getLogger(__name__)

#: Seconds: waiting does not count those for which the machine was suspended, but deadlines do.
MAX_PAUSE = 1.0
#: Seconds that the watchdog may wake too late where the process has not been stopped meanwhile ...
MAX_LATENESS = 0.5
#: ... and that responses are read for where it has.
GRACE = 0.5
#: Seconds that ``close()`` waits for a thread which has nothing more to do.
MAX_JOIN = 0.1


class Workers:
    """As many threads as there are calls at once, each with a session of its own.

    They are daemons, and so is the one that watches the deadlines: none keeps a process alive.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._idle: list[_Worker] = []
        self._running: set[_Job[Any]] = set()
        self._watchdog: Thread | None = None
        self._wakes_at = math.inf
        self._is_closed = False

    def submit(self, call: Call[T], deadline: float) -> Future[T]:
        """The future is done by the deadline. Its callbacks run in threads that must not block."""
        job = _Job(call, deadline)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The client is closed.")
            try:
                self._start(job)
            except RuntimeError as error:
                logger.warning("No thread for a request to ilert: %s", type(error).__name__)
                job.fail(IlertUnavailableError("No thread can be started.", code="unreachable"))
            except BaseException:
                # Interrupted: nobody would learn of the response, so nothing is sent any more.
                job.exchange.abandon()
                self._running.discard(job)
                raise
        return job.future

    def close(self) -> None:
        """What is still running fails."""
        with self._changed:
            self._is_closed = True
            abandoned = self._abandon(math.inf)
            ending = [*self._idle, *([self._watchdog] if self._watchdog else [])]
            for worker in self._idle:
                worker.jobs.put(None)
            self._idle.clear()
            self._changed.notify()
        for job in abandoned:
            job.fail(timed_out())
        for thread in ending:
            if thread is not current_thread():
                thread.join(MAX_JOIN)

    def finish(self, job: _Job[Any], worker: _Worker) -> bool:
        """Whether the job has not been given up meanwhile; then the worker may have the next."""
        with self._changed:
            if job not in self._running:
                return False
            self._running.remove(job)
            self._idle.append(worker)
            return True

    def _start(self, job: _Job[Any]) -> None:
        if self._watchdog is None:
            watchdog = Thread(target=self._watch, name="ilert-watchdog", daemon=True)
            watchdog.start()
            self._watchdog = watchdog
        if not self._idle:
            worker = _Worker(self)
            worker.start()
            self._idle.append(worker)
        self._running.add(job)
        self._idle.pop().jobs.put(job)
        if job.exchange.deadline < self._wakes_at:
            self._changed.notify()

    def _watch(self) -> None:
        while self._wait():
            if clock() - self._wakes_at > MAX_LATENESS:
                # Nothing is sent any more, but what has come is read.
                time.sleep(GRACE)
            for job in self._abandon(clock()):
                job.fail(timed_out())

    def _wait(self) -> bool:
        """Until the next deadline; whether there may be more."""
        with self._changed:
            now = clock()
            deadlines = [job.exchange.deadline for job in self._running]
            self._wakes_at = min([now + MAX_PAUSE, *deadlines]) if deadlines else math.inf
            if not self._is_closed:
                self._changed.wait(self._wakes_at - now if deadlines else None)
            return not self._is_closed

    def _abandon(self, moment: float) -> list[_Job[Any]]:
        """Those whose deadline has passed by then; what becomes of them counts no more."""
        with self._changed:
            overdue = [job for job in self._running if job.exchange.deadline <= moment]
            self._running.difference_update(overdue)
            for job in overdue:
                # Not once the lock is free: by then its socket may serve another exchange.
                job.exchange.abandon()
            return overdue


class _Worker(Thread):
    def __init__(self, workers: Workers) -> None:
        super().__init__(name="ilert-request", daemon=True)
        self.jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._workers = workers

    def run(self) -> None:
        with open_session() as session:
            while self._take_job(session):
                pass

    def _take_job(self, session: ClientSession) -> bool:
        """Whether there may be more; nothing of the job is kept until then."""
        job = self.jobs.get()
        if job is None:
            return False
        settle = job.do(session)
        if not self._workers.finish(job, self):
            return False
        settle()
        return True


class _Job(Generic[T]):
    def __init__(self, call: Call[T], deadline: float) -> None:
        self.exchange = Exchange(deadline)
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # from now on it cannot be cancelled
        self._call = call
        self._context = copy_context()

    def do(self, session: ClientSession) -> Callable[[], None]:
        """Returns what makes the outcome known."""
        try:
            return partial(self.future.set_result, self._context.run(self._make_call, session))
        except BaseException as error:
            return partial(self.fail, strip_frames(error))

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def _make_call(self, session: ClientSession) -> T:
        current_exchange.set(self.exchange)
        return self._call(session, self.exchange)
