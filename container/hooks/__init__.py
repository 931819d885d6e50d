"""A user's own code beside the web workers: its process, and the way there. Never Flask, gevent or torch."""
