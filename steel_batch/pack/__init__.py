"""Packs single images into shards: few large objects instead of many small ones."""
