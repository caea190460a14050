"""What a user wants to be told of after a run, and how it is told."""
