"""Guesses of the tokens that follow, and how many of them pay. Numbers only, never torch."""
