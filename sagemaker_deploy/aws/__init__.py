"""Every call that creates, changes, watches or removes AWS resources, and the checks before them."""
