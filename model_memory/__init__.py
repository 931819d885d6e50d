"""What a model takes in memory, and how GPUs share it, by config.json alone. Standard library only.

The engine and the deploy helper both import it, so that a plan and a start agree. It imports nothing of theirs.
"""
