"""Two slow reports take the whole pool; `acquire(timeout=)` raises a bare TimeoutError, which leakguard explains."""

# expect: event=exhausted cause=pool held=2 capacity=2
# notes-name-site: yes
# oracle: 2
# needs: asyncpg
import asyncio
import os

import asyncpg


async def report(pool, done):
    async with pool.acquire() as con:  # LEAK
        await con.execute("SELECT 1")
        await done.wait()


async def main():
    done = asyncio.Event()
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=2) as pool:
        reports = [asyncio.create_task(report(pool, done)) for _ in range(2)]
        await asyncio.sleep(0.3)
        try:
            await pool.acquire(timeout=0.5)
        except TimeoutError as error:
            print(repr(str(error)))
            for note in getattr(error, "__notes__", ()):
                for line in note.splitlines():
                    print("NOTE", line)
        print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
        done.set()
        await asyncio.gather(*reports)


asyncio.run(main())
