"""One shard: bytes in, staged rows and a receipt out. Does not depend on Ray."""
