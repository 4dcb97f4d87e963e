"""Messages where a site has none: Django's own, on the pages of this app alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.messages.context_processors import messages
from django.contrib.messages.middleware import MessageMiddleware
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render as django_render
from django.utils.decorators import decorator_from_middleware

View = Callable[..., Any]


def with_messages(view: View) -> View:
    own = decorator_from_middleware(MessageMiddleware)(view)

    @wraps(view)
    def shown(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        # Django has no public name for whether the middleware was there.
        return (view if hasattr(request, "_messages") else own)(request, *args, **kwargs)

    return shown


def render(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    return django_render(request, template, messages(request) | context)
