"""The model side: one engine process. `container` may import `handler.seam` and nothing else."""
