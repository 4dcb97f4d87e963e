"""The measurements of the documentation's tables: ``python -m tests.benchmarks``.

Parts, sizes and databases may be chosen, for a quick try:

    python -m tests.benchmarks limit --latencies 0.05 --threads 8 --rounds 3 --database sqlite:///x
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import endpoint
from .process import database_version, measured
from .sizes import Sizes
from .tables import Table, machine, merged

PARTS = [
    "startup",
    "fast_path",
    "session",
    "cost",
    "limit",
    "peers",
    "due",
    "large",
    "memory",
    "rate_limit",
]
#: Those that hardly depend on the database.
ON_THE_FIRST_DATABASE = {"startup", "fast_path", "session", "memory", "rate_limit"}
DATABASES = ["sqlite:///unused.sqlite3", "postgres://postgres@127.0.0.1:5432/ilert_benchmarks"]


def main() -> None:
    options = _options()
    started = time.monotonic()
    with endpoint.running() as url:
        print(machine(map(database_version, options.database)))
        print(f"The endpoint alone responds to {endpoint.capacity(url):.0f} requests a second.")
        print(f"Medians (least-most) of {options.rounds} interleaved runs.\n")
        for table in merged(_tables(options.parts, options.database, _sizes(options), url)):
            print(table)
    print(f"Measured in {time.monotonic() - started:.0f} seconds.")


def _options() -> argparse.Namespace:
    full = Sizes()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--database", action="extend", nargs="+", metavar="URL")
    parser.add_argument("--rounds", type=int, default=full.rounds)
    parser.add_argument("--seconds", type=float, default=full.seconds, help="of one run, about")
    parser.add_argument("--latencies", type=float, nargs="+", default=full.latencies)
    parser.add_argument("--threads", type=int, nargs="+", default=full.threads)
    parser.add_argument("--accounts", type=int, nargs="+", default=full.accounts)
    parser.add_argument("--due-among", type=int, nargs=2, default=full.due_among)
    parser.add_argument("--rate-limit-seconds", type=float, default=full.rate_limit_seconds)
    options = parser.parse_args()
    options.database = options.database or DATABASES
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


def _sizes(options: argparse.Namespace) -> Sizes:
    chosen = {name: value for name, value in vars(options).items() if hasattr(Sizes, name)}
    return Sizes(**chosen)


def _tables(
    parts: Sequence[str], databases: Sequence[str], sizes: Sizes, url: str
) -> Iterator[Table]:
    for part in parts:
        for database in _databases(part, databases):
            for some in _processes(part, sizes):
                print(f"{part} on {database.partition(':')[0]} ...", file=sys.stderr)
                for table in measured(part, some, url, database):
                    print(table, file=sys.stderr)
                    yield table


def _databases(part: str, databases: Sequence[str]) -> Sequence[str]:
    if part == "large":
        return [database for database in databases if database.startswith("postgres")]
    return databases[:1] if part in ON_THE_FIRST_DATABASE else databases


def _processes(part: str, sizes: Sizes) -> list[Sizes]:
    """The sizes of each process. A process keeps the most memory that it ever took."""
    if part != "memory":
        return [sizes]
    return [replace(sizes, accounts=(count,)) for count in sizes.accounts]


if __name__ == "__main__":
    main()
