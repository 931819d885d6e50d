"""The RMS norm kernel, over whole rows or over their heads."""
