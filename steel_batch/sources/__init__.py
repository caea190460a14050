"""What there is to score: image references from wherever they are written down, and their bytes."""
