"""Uses a deployed endpoint; changes nothing."""
