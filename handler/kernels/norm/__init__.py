"""The kernel of RMS norm, with and without the residual sum."""
