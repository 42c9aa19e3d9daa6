"""The page as a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from leakguard.web.answers import Answers, Doorkeeper

Environ: TypeAlias = dict[str, Any]
WsgiApp: TypeAlias = Callable[[Environ, Callable[..., object]], Iterable[bytes]]


def wsgi_app(*, authorize: Callable[[Environ], bool]) -> WsgiApp:
    """The page of this process, to be mounted somewhere in a WSGI application, or to be served alone.

    `authorize` is asked for every request, with the WSGI environ. Only True lets somebody in: any other answer, and an
    exception, is 403. Raises TypeError without a callable, MissingJinjaError without the extra ``html``.
    """
    keeper = Doorkeeper(authorize, "wsgi_app", "the WSGI environ")
    answers = Answers()

    def allowed(environ: Environ) -> bool:
        try:
            verdict: object = authorize(environ)
        except Exception as error:
            keeper.failed(error)
            return False
        return keeper.allows(verdict)

    def application(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        if allowed(environ):
            path, query = str(environ.get("PATH_INFO", "")), str(environ.get("QUERY_STRING", ""))
            response = answers.answer(str(environ.get("REQUEST_METHOD", "")), path, query)
        else:
            response = answers.forbidden()
        start_response(f"{response.status.value} {response.status.phrase}", list(response.headers))
        return [response.body]

    return application
