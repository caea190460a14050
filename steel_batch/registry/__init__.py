"""What a version of a model is, and which version an alias points to."""
