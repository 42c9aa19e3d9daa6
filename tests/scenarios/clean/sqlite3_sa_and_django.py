"""The same with a block for the session, and Django's connection closed at the end of the work."""

# expect: nothing
# args: --owner-grace 0.2 --fail
# needs: django
import gc
import threading
import time

import django
from django.conf import settings
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}}, USE_TZ=True)
django.setup()


def with_sqlalchemy(engine):
    with Session(engine) as session:
        return session.execute(text("SELECT 6 * 7")).scalar_one()


def with_django():
    from django.db import close_old_connections, connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 7 * 8")
        print(cursor.fetchone()[0])
    close_old_connections()


def main():
    engine = create_engine("sqlite:///shop.db")
    print(with_sqlalchemy(engine))
    worker = threading.Thread(target=with_django)
    worker.start()
    worker.join()
    with_django()
    gc.collect()
    time.sleep(1)
    engine.dispose()


main()
