import json
from urllib.parse import urlencode, urlsplit, urlunsplit

from markupsafe import Markup
from werkzeug.utils import redirect
from werkzeug.wrappers import Response

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    ),
}


def json_response(body: object, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(json.dumps(body), status, headers, mimetype="application/json")


def page_response(page: Markup, status: int = 200) -> Response:
    return Response(page, status, PAGE_HEADERS, mimetype="text/html")


def send_back(redirect_uri: str, **params: str | None) -> Response:
    """The caller has checked that the URI is registered."""
    parts = urlsplit(redirect_uri)
    given = urlencode({name: value for name, value in params.items() if value is not None})
    query = "&".join(filter(None, [parts.query, given]))
    return redirect(urlunsplit(parts._replace(query=query)))
