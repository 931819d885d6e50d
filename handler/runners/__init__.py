"""Three ways to run a batch through a model, and the trial that proves each at start. Never imports the engine."""
