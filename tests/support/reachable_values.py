"""What a tracker of errors can find: it follows whatever the frames of an error hold."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

#: Code, and what all of a program hangs on.
NOT_FOLLOWED = (types.ModuleType, types.FunctionType, types.MethodType, type)


def reachable(error: BaseException, *, own_file: str, max_depth: int = 8) -> Iterator[str]:
    """Texts of the error, of what led to it, and of all that their frames hold.

    The frames of ``own_file``, which is the test's, are left out. The default of ``max_depth`` is
    further than any tracker goes.
    """
    known: dict[int, object] = {}
    waiting: list[tuple[object, int]] = [(error, 0)]
    while waiting:
        value, depth = waiting.pop()
        if id(value) in known or depth > max_depth or isinstance(value, NOT_FOLLOWED):
            continue
        known[id(value)] = value
        yield from _texts(value)
        held = [*_parts(value), *(_locals(value, own_file))]
        waiting += [(part, depth + 1) for part in held]


def _texts(value: object) -> Iterator[str]:
    for show in (str, repr, _sliced):
        with suppress(Exception):
            yield show(value)


def _sliced(value: Any) -> str:
    return f"{value[:80]} {value[80:]}"


def _parts(value: Any) -> Iterator[object]:
    with suppress(TypeError):
        yield from vars(value).values()
    for name in getattr(type(value), "__slots__", ()):
        with suppress(AttributeError):
            yield getattr(value, name)
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _locals(value: object, own_file: str) -> Iterator[object]:
    if isinstance(value, BaseException):
        yield from (value.__cause__, value.__context__, value.args)
        trace = value.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename != own_file:
                yield from dict(trace.tb_frame.f_locals).values()
            trace = trace.tb_next
