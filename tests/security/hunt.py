"""Looks for pieces of secrets wherever something is shown, kept or sent on."""

from __future__ import annotations

import html
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

#: Characters: shorter pieces could be found by chance.
PIECE = 12
#: What tokens, codes, states and keys are spelt with; anything else ends a piece.
RUNS = re.compile(rf"[\w.=~-]{{{PIECE},}}", re.ASCII)
#: Their frames hold the secrets that they look for; those of ``transports`` stand for a library.
OWN_FILES = {str(Path(__file__).with_name(name)) for name in ("test_leaks.py", "world.py")}


@dataclass
class Hunt:
    secrets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def learn(self, name: str, secret: object) -> None:
        if len(str(secret)) >= PIECE:
            self.secrets[str(secret)] = name

    def look_at(self, place: str, shown: object) -> None:
        text = shown.decode("latin-1") if isinstance(shown, bytes) else str(shown)
        self.seen.append((place, text))

    def look_at_object(self, place: str, thing: object) -> None:
        self.look_at(f"{place}: str and repr", f"{thing} {thing!r}")
        self.look_at(f"{place}: attributes", repr(getattr(thing, "__dict__", "")))
        with suppress(TypeError, AttributeError, pickle.PicklingError):
            self.look_at(f"{place}: pickle", pickle.dumps(thing))

    def look_at_error(self, place: str, error: BaseException) -> None:
        """Each link of its chain, and what error trackers keep: every frame with its locals."""
        for link in _chain(error):
            name = f"{place}: {type(link).__name__}"
            self.look_at_object(name, link)
            frames = _after_own(link.__traceback__)
            kept = traceback.TracebackException(type(link), link, frames, capture_locals=True)
            self.look_at(f"{name}: frames", "".join(kept.format(chain=False)))

    def look_at_record(self, record: logging.LogRecord) -> None:
        place = f"log {record.name}"
        self.look_at(place, record.getMessage())
        self.look_at(f"{place}: facts", vars(record))
        if record.exc_info and record.exc_info[1]:
            self.look_at_error(place, record.exc_info[1])

    def leaks(self) -> list[str]:
        pieces = {piece: name for secret, name in self.secrets.items() for piece in _pieces(secret)}
        found = {
            f"{place}: {pieces[piece]}"
            for place, text in self.seen
            for variant in _variants(text)
            for piece in pieces.keys() & _windows(variant)
        }
        return sorted(found)


def _variants(text: str) -> set[str]:
    shown = html.unescape(text)
    return {text, shown, unquote(shown), unquote(unquote(shown))}


def _pieces(secret: str) -> set[str]:
    """Without a JWT's header, which is public and the same in all of them."""
    is_jwt = secret.startswith("eyJ") and secret.count(".") == 2
    return _windows(secret.partition(".")[2] if is_jwt else secret)


def _windows(text: str) -> set[str]:
    return {
        run[start : start + PIECE]
        for run in RUNS.findall(text)
        for start in range(len(run) - PIECE + 1)
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Suppressed contexts among them: error trackers may follow those, too."""
    waiting: list[BaseException | None] = [error]
    known: set[int] = set()
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in known:
            known.add(id(link))
            waiting += [link.__cause__, link.__context__]
            yield link


def _after_own(frames: TracebackType | None) -> TracebackType | None:
    while frames and frames.tb_frame.f_code.co_filename in OWN_FILES:
        frames = frames.tb_next
    return frames
