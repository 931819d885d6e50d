"""Kernels that multiply rows by weights of 4 or 8 bits or bfloat16, on vectors or on the matrix unit."""
