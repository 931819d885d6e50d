"""The adapters of an engine: read beside its loop, kept on the host, and put into the runner's slots when asked for."""
