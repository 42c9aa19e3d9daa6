"""An ORM over sqlite3 in a thread of its own: SQLAlchemy's session is forgotten, Django's connection never closed."""

# expect: kind=dropped library=sqlalchemy certain=yes site=session
# expect: kind=dropped|orphaned library=sqlite3 certain=yes site=orm
# args: --owner-grace 0.2
# needs: django
import gc
import sys
import threading

import django
from django.conf import settings
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

sys.unraisablehook = lambda unraisable: None
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}}, USE_TZ=True)
django.setup()


def with_sqlalchemy(engine):
    session = Session(engine)
    return session.execute(text("SELECT 6 * 7")).scalar_one()  # LEAK:session


def with_django():
    from django.db import connection

    with connection.cursor() as cursor:  # LEAK:orm
        cursor.execute("SELECT 7 * 8")
        print(cursor.fetchone()[0])


def main():
    engine = create_engine("sqlite:///shop.db")
    print(with_sqlalchemy(engine))
    worker = threading.Thread(target=with_django)
    worker.start()
    worker.join()
    gc.collect()
    engine.dispose()


main()
