"""What is written to a console: names from ilert that do nothing to it, or nothing at all."""

from __future__ import annotations

import logging
from io import StringIO
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_ilert_oauth.exceptions import IlertOAuthError


class QuietCommand(BaseCommand):
    """Writes nothing with ``-v 0``, whatever happens: the exit status says how it went."""

    def execute(self, *args: Any, **options: Any) -> Any:
        silence, logger = logging.NullHandler(), logging.getLogger("django_ilert_oauth")
        if options["verbosity"] == 0:
            options["stdout"] = options["stderr"] = StringIO()
            # Where no log is set up, Python would write warnings to the console.
            logger.addHandler(silence)
        try:
            return super().execute(*args, **options)
        except IlertOAuthError as error:
            raise CommandError(str(error), returncode=2) from None
        finally:
            logger.removeHandler(silence)


def printable(text: str, stream: Any) -> str:
    """Has escapes in place of what the stream cannot show, and of what is not to be seen.

    That is what breaks a line, moves the cursor or turns the direction of writing.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
