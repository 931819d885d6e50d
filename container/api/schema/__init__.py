"""JSON schemas as clients send them: checked, closed and rewritten for the engine. Imports no dialect."""
