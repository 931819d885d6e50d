"""The bytes of a connection: worker, socket, body, events. Never imports dialects or models."""
