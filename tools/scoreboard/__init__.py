"""The reliability scoreboard: the promises, the results of the last `make faults`, and the page generated from both."""
