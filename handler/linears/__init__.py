"""Every way to multiply by a weight, and which one a layer gets. Knows kernels, never models or runners."""
