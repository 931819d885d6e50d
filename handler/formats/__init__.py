"""Readers of stored weights: files -> named weights, quantised ones in the form of `linears/quantised_weight.py`."""
