"""Kernels that multiply rows by weights of 4 and 8 bits or bfloat16, by vectors or by a matrix unit."""
