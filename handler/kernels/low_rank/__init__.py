"""What low-rank adapters add to products, each row by its own adapter: `scaling * (x A^T) B^T`."""
