"""A user's own code: hooks that run in a process of their own, and a web worker's way there. No HTTP of ours.

docs/decisions/0136-hooks-run-in-a-process-of-their-own.md.
"""
