"""The same with the connection closed in its thread; the main thread's stays open, as Django wants it."""

# expect: nothing
# args: --owner-grace 0.2 --fail
# needs: django psycopg2-binary
import gc
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

DSN = urlsplit(os.environ["ZOO_DSN"])


def configure():
    sys.modules["psycopg"] = None  # else Django would prefer it
    import django
    from django.conf import settings

    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DSN.path[1:],
        "HOST": DSN.hostname,
        "PORT": DSN.port,
        "USER": DSN.username,
        "CONN_MAX_AGE": 600,
    }
    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()


def work(number):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT %s * 2", [number])
        return cursor.fetchone()[0], type(connection.connection).__module__.partition(".")[0]


def work_and_close(number):
    from django.db import connection

    try:
        return work(number)
    finally:
        connection.close()


def main():
    configure()
    for number in (1, 2):
        with ThreadPoolExecutor(max_workers=1) as executor:
            print(executor.submit(work_and_close, number).result())
        print(work(number))
        gc.collect()
    time.sleep(1)


main()
