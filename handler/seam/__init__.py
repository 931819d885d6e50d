"""All that both processes may import. Standard library and msgspec only."""
