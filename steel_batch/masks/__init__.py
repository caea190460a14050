"""Converts bitmasks to run-lengths, areas and boxes, and back."""
