"""Loose images packed into shards: few large objects instead of many small ones."""
