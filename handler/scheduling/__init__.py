"""Who runs next, and the accounting of KV memory. Pure Python: never torch, never a socket."""
