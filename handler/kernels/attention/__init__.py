"""Kernels of softmax(QK)V with rotary embedding and cache writes, one call for all rows of a layer."""
