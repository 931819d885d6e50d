"""The bytes of a connection: worker, socket, body, events. Knows nothing of dialects or models."""
