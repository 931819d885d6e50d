"""The steps: each a function from a setting to lines, in a process of its own."""
