"""The example site and, unless credentials for ilert are configured, a stand-in for ilert."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import demo_environment
from demo_ports import HOST, PortTakenError, choose_ports
from demo_processes import MANAGE, ProcessEndedError, Processes, be_interruptible, run_command
from example_site.environment import DEMO_FOLDER
from walkthrough import Walkthrough

SITE, STANDIN = "example site", "stand-in for ilert"


class SetupError(Exception):
    pass


def main() -> int:
    options = _parser().parse_args()
    # What is made from now on, the keys and the database among it, is for nobody else.
    os.umask(0o077)
    be_interruptible()
    try:
        return _run_once(options) if options.once else _run(options)
    except (PortTakenError, SetupError) as error:
        print(error, file=sys.stderr)
        return 2
    except ProcessEndedError as error:
        print(error, "Everything is stopped.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130 if options.once else 0


def _run(options: argparse.Namespace) -> int:
    uses_ilert = _has_credentials()
    wanted = {"--port": 8000 if options.port is None else options.port}
    if not uses_ilert:
        wanted["--ilert-port"] = 8001 if options.ilert_port is None else options.ilert_port
    site_port, *ilert_ports = choose_ports(wanted)
    folder = options.folder.resolve()
    with Processes() as processes:
        if uses_ilert:
            environment = demo_environment.at_ilert(folder)
        else:
            environment = demo_environment.at_standin(folder, _url(ilert_ports[0]))
            _start_standin(processes, ilert_ports[0], site_port)
        _start_site(processes, environment, site_port)
        _welcome(environment, _url(site_port))
        processes.watch()


def _run_once(options: argparse.Namespace) -> int:
    """On free ports and with a database of its own, so that it can run beside another example."""
    wanted = {"--port": options.port or 0, "--ilert-port": options.ilert_port or 0}
    site_port, ilert_port = choose_ports(wanted)
    with TemporaryDirectory() as name, Processes(Path(name)) as processes:
        environment = demo_environment.sealed(Path(name), _url(ilert_port))
        _start_standin(processes, ilert_port, site_port)
        _start_site(processes, environment, site_port)
        job = Walkthrough(
            _url(site_port),
            _url(ilert_port),
            environment["DEMO_PASSWORD"],
            partial(run_command, environment),
            partial(processes.log_of, STANDIN),
        )
        if job.run():
            return 0
        for program in (SITE, STANDIN):
            print(f"The log of the {program}:\n{processes.log_of(program)}", file=sys.stderr)
        return 1


def _start_standin(processes: Processes, port: int, site_port: int) -> None:
    arguments = [sys.executable, "-m", "ilert_standin", "--port", str(port)]
    for host in (HOST, "localhost"):
        uri = demo_environment.redirect_uri(f"http://{host}:{site_port}")
        arguments += ["--redirect-uri", uri]
    processes.start(STANDIN, arguments, os.environ)
    processes.wait_for(STANDIN, port)


def _start_site(processes: Processes, environment: Mapping[str, str], port: int) -> None:
    prepared = run_command(environment, "prepare_demo")
    if prepared.returncode:
        raise SetupError(prepared.stdout)
    # Insecure is Django's word for serving static files itself although DEBUG is off.
    server = ["runserver", "--noreload", "--insecure", f"{HOST}:{port}"]
    processes.start(SITE, [*MANAGE, *server], environment)
    processes.wait_for(SITE, port)


def _welcome(environment: Mapping[str, str], site_url: str) -> None:
    print(f"The example site is at {site_url}/ (the admin at {site_url}/admin/).")
    for username in ("demo", "admin"):
        print(f"Log in as {username} with {environment[f'{username.upper()}_PASSWORD']}")
    if _has_credentials():
        uri = environment.get("ILERT_OAUTH_REDIRECT_URI") or demo_environment.redirect_uri(site_url)
        print(f"It talks to ilert. Register this redirect URI there: {uri}")
    else:
        ilert_url = environment["ILERT_OAUTH_APP_URL"]
        print(f"It talks to a stand-in for ilert at {ilert_url}/, where any user is yours.")
    print("Ctrl-C ends it.", flush=True)


def _has_credentials() -> bool:
    given = [bool(os.environ.get(name)) for name in ("ILERT_CLIENT_ID", "ILERT_CLIENT_SECRET")]
    if any(given) and not all(given):
        raise SetupError("Set both ILERT_CLIENT_ID and ILERT_CLIENT_SECRET, or neither.")
    return all(given)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=_port, help="of the example site (default: 8000)")
    parser.add_argument("--ilert-port", type=_port, help="of the stand-in (default: 8001)")
    parser.add_argument(
        "--once",
        action="store_true",
        help="walk through the app without a browser, against the stand-in whatever is configured, "
        "on free ports unless given; exit 0 only if every step held, 130 if interrupted",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=DEMO_FOLDER,
        help="where the database and the keys are kept (default: %(default)s)",
    )
    return parser


def _port(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
