"""The page as an ASGI application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from leakguard.web.answers import Answers, Doorkeeper, Response

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi_app(*, authorize: Callable[[Scope], bool | Awaitable[bool]]) -> AsgiApp:
    """The page of this process, to be mounted somewhere in an ASGI application, or to be served alone.

    `authorize` is asked for every request, with the ASGI scope; it may be a coroutine function. Only True lets
    somebody in: any other answer, and an exception, is 403. Raises TypeError without a callable, MissingJinjaError
    without the extra ``html``. The page is made in a thread of asyncio's default executor.
    """
    keeper = Doorkeeper(authorize, "asgi_app", "the ASGI scope")
    answers = Answers()

    async def allowed(scope: Scope) -> bool:
        try:
            verdict: object = authorize(scope)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except Exception as error:
            keeper.failed(error)
            return False
        return keeper.allows(verdict)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                response = await _answer(answers, scope) if await allowed(scope) else answers.forbidden()
                await _respond(response, send)
            case "lifespan":
                await _live(receive, send)
            case _:  # a WebSocket, refused before it is accepted
                await receive()
                await send({"type": "websocket.close", "code": 1008})

    return application


async def _answer(answers: Answers, scope: Scope) -> Response:
    # Depending on their version, frameworks leave the place of the mount in the path, or take it out.
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/"))
    asked = str(scope["method"]), path, bytes(scope.get("query_string", b"")).decode("latin-1")
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # another event loop than asyncio's, which has no such threads
        return answers.answer(*asked)
    return await asyncio.to_thread(answers.answer, *asked)


async def _respond(response: Response, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status.value, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _live(receive: Receive, send: Send) -> None:
    """Where the page is served alone: there is nothing to start and nothing to stop."""
    while True:
        phase = str((await receive())["type"])
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return
