"""Reporters: each tells events in one form. A reporter has ``report(event)``; nothing else is asked of it.

``text`` writes for people, ``log`` into the `logging` that the application already has, ``jsonl`` for programs.
"""
