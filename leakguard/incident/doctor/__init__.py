"""The server's side of an incident: who has its slots, and which line of which process has each of them.

::

    dsn.resolve -> doors.enter -> server.collect (+ bouncer.collect, processes.sockets)
                                     -> join.join -> diagnosis.diagnose -> text.as_text | model.plain
    login, probe: why a server refuses, told without its language        terminate: ends the backends of chosen holds

What is collected is frozen values, and everything behind the collecting is pure. Only `doors`, `dsn`, `server`,
`bouncer` and `terminate` know a driver, psycopg, which is imported when it is needed.
"""
