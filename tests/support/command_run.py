"""A command of the app, run in this process."""

from io import StringIO

from django.core.management import CommandError, call_command


class CommandRun:
    """Its output, its errors, and how it failed and with which exit code."""

    def __init__(self, name: str, *options: str, stderr: StringIO | None = None) -> None:
        out, err = StringIO(), stderr or StringIO()
        self.failure, self.code = "", 0
        try:
            call_command(name, *options, stdout=out, stderr=err)
        except CommandError as error:
            self.failure, self.code = str(error), error.returncode
        self.out, self.err = out.getvalue(), err.getvalue()
