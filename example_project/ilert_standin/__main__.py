import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .app import StandIn
from .faults import ENDPOINTS, NAMED_FAULTS, Fault, parse_fault
from .options import FIRST_APP_ID, Client, Options
from .server import LoggingHandler, listen

AddOption = Callable[..., object]


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
        url = f"http://{options.host}:{server.port}{options.url_prefix}"
        tell(f"The stand-in for ilert is at {url} (Ctrl-C ends it)")
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
    uris = ", ".join(defaults.pop("redirect_uris"))
    parser.set_defaults(**defaults, redirect_uris=None)
    add_addresses(parser.add_argument)
    add_clients(parser.add_argument_group("clients").add_argument, uris)
    add_tokens(parser.add_argument_group("tokens").add_argument)
    add_responses(parser.add_argument_group("responses").add_argument)
    return parser


def add_addresses(add: AddOption) -> None:
    add("--host", help="address to listen on (%(default)s)")
    add("--port", type=port, help="0 takes a free one (%(default)s)")
    add("--url-prefix", type=prefix, metavar="PATH", help="what all addresses begin with (none)")


def add_clients(add: AddOption, uris: str) -> None:
    uri_help = f"repeatable ({uris})"
    add("--client-id", help="the app's (%(default)s)")
    add("--client-secret", help="the app's (%(default)s)")
    add("--redirect-uri", action="append", dest="redirect_uris", metavar="URI", help=uri_help)
    add(
        "--client",
        action=AddClient,
        nargs="+",
        dest="more_clients",
        metavar=("ID SECRET URI", "URI"),
        help="one more; repeatable",
    )
    codes = ("invalid_grant", "invalid_client")
    add("--client-error", choices=codes, help="for wrong credentials (%(default)s)")


def add_tokens(add: AddOption) -> None:
    ends_all = "revoking one refresh token ends all grants of its person and client"
    add("--access-token-lifetime", type=int, metavar="SECONDS", help="%(default)s")
    add("--refresh-token-lifetime", type=lifetime, metavar="SECONDS", help="0: never expires")
    add("--code-lifetime", type=int, metavar="SECONDS", help="%(default)s")
    add("--rotate", action="store_true", help="every refresh brings a new refresh token")
    add("--detect-reuse", action="store_true", help="a rotated refresh token ends its grant")
    add("--revoke-ends-all", action="store_true", help=ends_all)


def add_responses(add: AddOption) -> None:
    faults = f"PATH: {', '.join(ENDPOINTS)}; WHAT: an HTTP status, {', '.join(NAMED_FAULTS)}"
    limit = "%(default)s; 0: no limit"
    add("--requests-per-minute", type=int, metavar="N", help=f"from one address ({limit})")
    add("--requests-per-token", type=int, metavar="N", help=f"in a minute ({limit})")
    add("--retry-after", type=int, metavar="SECONDS", help="sent with a 429, else nothing is")
    add("--latency", type=float, metavar="SECONDS", help="before every response of the API")
    add("--alert-sources", type=int, metavar="N", help="of each tenant at first (%(default)s)")
    add(
        "--fault",
        action="append",
        type=fault,
        default=[],
        metavar="PATH:WHAT[:COUNT]",
        help=f"{faults}; COUNT: 1, 0 is for ever; repeatable",
    )


class AddClient(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) < 3:
            parser.error(f"{option_string} takes an id, a secret and one redirect URI or more")
        id, secret, *uris = values
        clients = getattr(namespace, self.dest)
        app_id = FIRST_APP_ID + 1 + len(clients)
        setattr(namespace, self.dest, [*clients, Client(id, secret, uris, app_id)])


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def prefix(text: str) -> str:
    path = text.strip("/")
    return path and f"/{path}"


def lifetime(text: str) -> int | None:
    return int(text) or None


def fault(text: str) -> tuple[str, Fault, int | None]:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
