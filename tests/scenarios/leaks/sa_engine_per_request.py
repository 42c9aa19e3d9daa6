"""create_engine() in the request handler: every checkout goes back, but to a pool that nobody disposes of."""

# expect: kind=unclosed_pool certain=yes count=3
# oracle: 3
import gc
import os
import weakref

from sqlalchemy import create_engine, text

pools = []


def handle(request):
    engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))  # LEAK
    with engine.connect() as conn:
        answer = conn.execute(text("SELECT upper(:r)"), {"r": request}).scalar_one()
    pools.append((weakref.ref(engine.pool), engine.pool.checkedin()))
    return answer


def main():
    for request in ("list", "show", "edit"):
        print(handle(request))
    gc.collect()
    print(f"ORACLE leaked={sum(idle for ref, idle in pools if ref() is None)}")


main()
