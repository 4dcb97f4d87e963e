from dataclasses import dataclass, field, replace

from werkzeug.wrappers import Request


@dataclass(frozen=True)
class RecordedRequest:
    """`status` is 0 until the response is sent, and for good if the connection is dropped."""

    method: str
    path: str
    query: dict[str, str] = field(repr=False)
    form: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    status: int = 0


class Journal:
    def __init__(self) -> None:
        self._records: dict[object, RecordedRequest] = {}

    def arrived(self, request: Request) -> object:
        arrival = object()
        self._records[arrival] = RecordedRequest(
            request.method,
            request.root_path + request.path,
            request.args.to_dict(),
            request.form.to_dict(),
            dict(request.headers),
        )
        return arrival

    def responded(self, arrival: object, status: int) -> None:
        record = self._records[arrival]
        self._records[arrival] = replace(record, status=status)

    def records(self) -> list[RecordedRequest]:
        return list(self._records.values())
