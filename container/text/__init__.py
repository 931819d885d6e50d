"""Messages to prompt to token ids, and token ids back to text. Never flask, never sockets."""
