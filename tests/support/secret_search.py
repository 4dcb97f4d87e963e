"""Looks for pieces of secrets wherever something is shown, kept or sent on."""

from __future__ import annotations

import html
import inspect
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
#: Error trackers show so much of a value.
SLICE = 80
TESTS = Path(__file__).parents[1]
#: What sends secrets, and could warn of something meanwhile.
SENDERS = re.compile("/(django_ilert_oauth|http|httpcore|httpx|requests|urllib3)/")
#: Their frames hold the secrets that they look for; ``scripted_adapter`` stands for a library.
OWN_FILES = {str(TESTS / name) for name in ("security/test_leaks.py", "support/watched_site.py")}


@dataclass
class Hunt:
    secrets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)

    def learn(self, name: str, secret: str) -> None:
        if len(secret) >= PIECE:
            self.secrets[secret] = name

    def look_at(self, place: str, shown: object) -> None:
        text = shown.decode("latin-1") if isinstance(shown, bytes) else str(shown)
        self.seen.append((place, text))

    def look_at_object(self, place: str, thing: object) -> None:
        """One that is handed out, and may be kept somewhere."""
        self.look_at_value(place, thing)
        with suppress(TypeError, AttributeError, pickle.PicklingError):
            self.look_at(f"{place}: pickle", pickle.dumps(thing))

    def look_at_value(self, place: str, value: object) -> None:
        """As error trackers do: they take strings as they are, slice, and list what is in it."""
        for part in (value, *_items(value), *_attributes(value)):
            self.look_at(place, " ".join(_texts(part)))

    def look_at_error(self, place: str, error: BaseException) -> None:
        """Each link of its chain, what ``requests`` attaches, and every local of every frame."""
        for link in _chain(error):
            name = f"{place}: {type(link).__name__}"
            for attached in _with_attached(link):
                self.look_at_object(f"{name}: {type(attached).__name__}", attached)
            self.look_at(f"{name}: text", "".join(traceback.format_exception(link)))
            for frame, _line in traceback.walk_tb(_after_own(link.__traceback__)):
                for variable, value in frame.f_locals.items():
                    self.look_at_value(f"{name}: {frame.f_code.co_qualname}: {variable}", value)

    def look_at_record(self, record: logging.LogRecord) -> None:
        place = f"log {record.name}"
        self.look_at(place, record.getMessage())
        self.look_at(f"{place}: facts", vars(record))
        if record.exc_info and record.exc_info[1]:
            self.look_at_error(place, record.exc_info[1])
        if record.levelno >= logging.WARNING:
            self._look_at_callers(place)

    def _look_at_callers(self, place: str) -> None:
        """Handlers may send what the frames below a record hold, as that of Elastic APM does."""
        for frame, _line in traceback.walk_stack(None):
            if SENDERS.search(frame.f_code.co_filename):
                for variable, value in frame.f_locals.items():
                    shown = " ".join(_texts(value))
                    self.look_at(f"{place}: {frame.f_code.co_qualname}: {variable}", shown)

    def leaks(self) -> list[str]:
        pieces = {
            piece: name
            for secret, name in self.secrets.items()
            for piece in _windows(without_header(secret))
        }
        found = {
            f"{place}: {pieces[piece]}"
            for place, text in self.seen
            for variant in _variants(text)
            for piece in pieces.keys() & _windows(variant)
        }
        return sorted(found)


def without_header(secret: str) -> str:
    """A JWT's is public and the same in all of them."""
    is_jwt = secret.startswith("eyJ") and secret.count(".") == 2
    return secret.partition(".")[2] if is_jwt else secret


def _texts(thing: object) -> Iterator[str]:
    for show in (str, repr, lambda thing: str(thing[:SLICE])):
        # Whatever the objects of others raise there.
        with suppress(Exception):
            yield show(thing)


def _items(thing: object) -> list[object]:
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    return list(thing) if isinstance(thing, list | tuple | set | frozenset) else []


def _attributes(thing: object) -> Iterator[object]:
    """One level of them: instance variables, slots and properties."""
    if thing is None or isinstance(thing, str | bytes) or _is_code(thing):
        return
    for name in dir(thing):
        if not name.startswith("__"):
            with suppress(Exception):
                value = getattr(thing, name)
                if not _is_code(value):
                    yield value


def _is_code(thing: object) -> bool:
    return inspect.isroutine(thing) or inspect.isclass(thing) or inspect.ismodule(thing)


def _with_attached(error: BaseException) -> list[object]:
    """The exception, its arguments, and the requests and responses that they hold."""
    found: list[object] = [error, *error.args]
    for holder in found:
        history = getattr(holder, "history", [])
        inner = [getattr(holder, name, None) for name in ("request", "response", "raw")]
        found += [i for i in (*inner, *history) if i is not None and i not in found]
    return found


def _variants(text: str) -> set[str]:
    shown = html.unescape(text)
    return {text, shown, unquote(shown), unquote(unquote(shown))}


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
