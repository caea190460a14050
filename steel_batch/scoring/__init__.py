"""One shard: bytes in, staged rows and a receipt out. Knows no Ray."""
