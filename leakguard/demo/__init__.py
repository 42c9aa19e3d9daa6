"""The demo: a leaky little shop on a real PostgreSQL, and the starter of that PostgreSQL.

Imports nothing, so that ``python -m leakguard.demo.postgres`` runs without a second copy of the module.
"""
