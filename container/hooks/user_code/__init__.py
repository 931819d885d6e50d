"""Finds, imports and calls a user's code. Knows no socket and no process; numpy only inside functions."""
