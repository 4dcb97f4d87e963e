import argparse
import signal
import sys
from collections.abc import Sequence

from .app import StandIn
from .faults import ENDPOINTS, NAMED_FAULTS, Fault, parse_fault
from .options import Options
from .server import LoggingHandler, listen


def main(arguments: Sequence[str] | None = None) -> int:
    # A shell may have had SIGINT ignored for what it starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return 0


def run(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    faults = given.pop("fault")
    if given["redirect_uris"] is None:
        del given["redirect_uris"]
    options = Options(**given)
    standin = StandIn(options)
    for endpoint, fault, times in faults:
        standin.add_fault(endpoint, fault, times)
    try:
        server = listen(standin, options.host, options.port, LoggingHandler)
    except OSError as error:
        return complain(options, error)
    with server:
        tell(f"The stand-in for ilert is at http://{options.host}:{server.port} (Ctrl-C ends it)")
        server.serve_forever()
    return 0


def complain(options: Options, error: OSError) -> int:
    address = f"{options.host}:{options.port}"
    tell(f"Cannot listen on {address} ({error.strerror}); choose another port with --port")
    return 2


def tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ilert_standin",
        description="A stand-in for ilert, for trying out and testing OAuth2 without the real one.",
    )
    defaults = vars(Options())
    uris = f"repeatable ({', '.join(defaults.pop('redirect_uris'))})"
    faults = f"PATH: {', '.join(ENDPOINTS)}; WHAT: an HTTP status, {', '.join(NAMED_FAULTS)}; "
    add = parser.add_argument
    add("--host", help="address to listen on (%(default)s)")
    add("--port", type=port, help="0 takes a free one (%(default)s)")
    add("--client-id", help="the app's (%(default)s)")
    add("--client-secret", help="the app's (%(default)s)")
    add("--redirect-uri", action="append", dest="redirect_uris", metavar="URI", help=uris)
    add("--access-token-lifetime", type=int, metavar="SECONDS", help="%(default)s")
    add("--refresh-token-lifetime", type=lifetime, metavar="SECONDS", help="0: never expires")
    add("--code-lifetime", type=int, metavar="SECONDS", help="%(default)s")
    add("--rotate", action="store_true", help="every refresh brings a new refresh token")
    add("--requests-per-minute", type=int, metavar="N", help="%(default)s; 0: no limit")
    add("--retry-after", type=int, metavar="SECONDS", help="sent with a 429, else nothing is")
    add("--latency", type=float, metavar="SECONDS", help="before every answer of the API")
    add(
        "--fault",
        action="append",
        type=fault,
        default=[],
        metavar="PATH:WHAT[:COUNT]",
        help=f"{faults}COUNT: 1, 0 is for ever; repeatable",
    )
    parser.set_defaults(**defaults)
    return parser


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def lifetime(text: str) -> int | None:
    return int(text) or None


def fault(text: str) -> tuple[str, Fault, int | None]:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
