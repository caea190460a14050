"""What a version of a model is, and which one an alias means."""
