"""The reliability scoreboard: what is promised, what the last run of `make faults` saw, and the page made of both."""
