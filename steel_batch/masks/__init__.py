"""From a bitmask to run-lengths, areas and boxes, and back."""
