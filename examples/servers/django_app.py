"""A Django project in one file, for a WSGI or an ASGI server, with or without Django's connection pool.

    export DATABASE_URL=postgresql://...
    leakguard run -- gunicorn --chdir examples/servers --threads 4 django_app:wsgi
    leakguard run -- uvicorn --app-dir examples/servers django_app:asgi
    leakguard run -- python examples/servers/django_app.py runserver

`/orders` and `/export` are in order. `/export/leaky` starts a thread that uses Django's connection and ends: Django
closes only the connections of the thread that serves the request. With `CONN_MAX_AGE` under ASGI, `/orders` leaks as
well: there every request has a thread of its own, and nobody closes what that thread leaves open.

`DJANGO_POOL=4` makes Django take its connections from a pool of four; `CONN_MAX_AGE=60` keeps them for a minute.
"""

import os
import sys
import threading

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

server = conninfo_to_dict(os.environ["DATABASE_URL"])
pool_size = int(os.environ.get("DJANGO_POOL", "0"))
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="an example has no secrets",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": server.get("host"),
            "PORT": server.get("port"),
            "USER": server.get("user"),
            "NAME": server.get("dbname"),
            "CONN_MAX_AGE": int(os.environ.get("CONN_MAX_AGE", "0")),
            "OPTIONS": {"pool": {"min_size": 1, "max_size": pool_size, "timeout": 5}} if pool_size else {},
        }
    },
)
django.setup()


def count_orders() -> int:
    with connection.cursor() as cursor:  # LEAK under ASGI with CONN_MAX_AGE
        cursor.execute("SELECT count(*) FROM generate_series(1, 3)")
        return cursor.fetchone()[0]


def orders(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"orders": count_orders()})


def export_leaky(request: HttpRequest) -> JsonResponse:
    def work() -> None:
        with connection.cursor() as cursor:  # LEAK
            cursor.execute("SELECT 'exported'")

    return in_a_thread(work)


def export(request: HttpRequest) -> JsonResponse:
    def work() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 'exported'")
        finally:
            connection.close()  # this thread's own; with a pool, back into it

    return in_a_thread(work)


def in_a_thread(work) -> JsonResponse:
    thread = threading.Thread(target=work, name="export")
    thread.start()
    thread.join()
    return JsonResponse({"exported": True})


urlpatterns = [path("orders", orders), path("export", export), path("export/leaky", export_leaky)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
