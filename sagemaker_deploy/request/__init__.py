"""What will be asked of AWS, made without a call."""
