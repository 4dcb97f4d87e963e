from http import HTTPStatus

STATUSES = {
    "invalid_request": 400,
    "invalid_scope": 400,
    "access_denied": 400,
    "unsupported_grant_type": 400,
    "invalid_grant": 401,
    "invalid_client": 401,
    "server_error": 500,
}


class OAuthError(Exception):
    """ilert's shape, not RFC 6749's: `code` is the code and `error` the text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text
        self.status = STATUSES[code]

    def body(self) -> dict[str, object]:
        return {"code": self.code, "error": self.text}


class RestError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code or HTTPStatus(status).name

    def body(self) -> dict[str, object]:
        return {"status": self.status, "message": self.message, "code": self.code}


class ScopeError(RestError):
    def __init__(self, scope: str) -> None:
        super().__init__(403, f"The token lacks the scope {scope}", "OAUTH2_SCOPE_ERROR")
        self.scope = scope

    def body(self) -> dict[str, object]:
        return super().body() | {"scope": self.scope}


class PageError(Exception):
    """Shown to the user as a page, and never sent on to a redirect URI."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
