"""What a hook gets as its model: calls of this server's own routes over loopback. Knows no hook."""
