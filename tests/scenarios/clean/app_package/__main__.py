"""The entry point: `python -m app_package`."""

# expect: nothing
# args: --fail
# run: -m
# oracle: 0
import time

from . import db, views


def main():
    for line in (views.basket(2), views.basket(3), views.invoice(1)):
        print(line)
    time.sleep(0.4)
    stats = db.pool.get_stats()
    db.pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


if __name__ == "__main__":
    main()
