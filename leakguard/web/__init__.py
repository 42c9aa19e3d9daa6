"""The page of the service that is running: what it holds right now, mounted by you, behind your own authentication.

There is no page unless one of these is called, and none without a callable that says who may see it::

    app.mount("/leaks", leakguard.web.asgi_app(authorize=lambda scope: scope["user"].is_staff))
    application = DispatcherMiddleware(application, {"/leaks": leakguard.web.wsgi_app(authorize=is_staff)})

It only reads: GET and HEAD, nothing that changes anything. It tells of the one process that answers; other workers of
the service tell of themselves. Needs the extra ``html``.
"""

from __future__ import annotations

from leakguard.web.asgi import asgi_app
from leakguard.web.wsgi import wsgi_app

__all__ = ["asgi_app", "wsgi_app"]
