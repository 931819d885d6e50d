"""What a checkpoint must have before it is loaded, and what in its directory is never run."""
