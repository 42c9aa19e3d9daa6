"""An engine with creator= of its own: the creator's psycopg.connect() is the engine's; forgotten is the checkout."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2 healed=yes
import gc
import os

import psycopg
from sqlalchemy import create_engine, text


def open_connection():
    return psycopg.connect(os.environ["ZOO_DSN"], application_name="creator")


engine = create_engine("postgresql+psycopg://", creator=open_connection)


def ask(question):
    conn = engine.connect()  # LEAK
    return conn.execute(text("SELECT current_setting('application_name') || :q"), {"q": question}).scalar_one()


def main():
    print(ask("?"), ask("!"))
    gc.collect()
    engine.dispose()


main()
