"""One file for each library: how its acquire, its release and its use of a connection are seen.

An integration patches or listens, and reports to the tracker; it decides nothing. Where the library offers events,
it listens to them.
"""
