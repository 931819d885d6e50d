"""Attention kernels: rotary embedding, cache writes and softmax(QK^T)V, one call for all rows of a layer."""
