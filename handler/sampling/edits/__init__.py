"""What sequences change in their rows of logits before temperature, on CPU and on a GPU."""
