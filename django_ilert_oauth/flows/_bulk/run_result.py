"""What a run over many accounts has done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunResult(ABC):
    """``failures`` maps the primary key of each account that failed to an error code.

    ``stopped`` says why the run ended early: ``credentials``, ``invalid_client``, ``outage``,
    ``database`` or ``interrupted``; it is empty if the run did not. The first three concern one
    client: the run went on with the accounts of the others. ``seconds`` is how long it took.
    """

    failures: dict[Any, str] = field(default_factory=dict)
    stopped: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    @abstractmethod
    def done(self) -> int:
        """How many accounts the run has dealt with so far."""
