"""Who runs next, and the books of KV memory. Pure Python: never torch, never a socket."""
