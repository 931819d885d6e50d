"""Bodies and media types: what a user's functions get and return where they define no conversion. Knows no function."""
