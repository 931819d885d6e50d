"""Adapters of peft: files in, checked additions to a loaded model out, and the plain way to add them by rows."""
