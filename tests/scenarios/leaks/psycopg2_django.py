"""Django over psycopg2: a thread of an executor that has used the ORM ends with its connection open."""

# expect: kind=dropped|orphaned library=psycopg2 certain=yes count=2
# args: --owner-grace 0.2
# needs: django psycopg2-binary
import gc
import os
import sys
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
    }
    settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()


def work(number):
    from django.db import connection

    with connection.cursor() as cursor:  # LEAK
        cursor.execute("SELECT %s * 2", [number])
        return cursor.fetchone()[0], type(connection.connection).__module__.partition(".")[0]


def main():
    configure()
    for number in (1, 2):
        with ThreadPoolExecutor(max_workers=1) as executor:
            print(executor.submit(work, number).result())
        gc.collect()


main()
