"""Kernels for CPU that torch does not have, compiled by numba when the engine starts. Everything works without them.

torch's attention for one new token of each of many sequences spends more on calling small matrix products than on the
products; here one call does a whole layer's rotary embedding, cache and attention. docs/decisions/0009.
"""
