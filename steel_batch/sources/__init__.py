"""What there is to score: image references, wherever they are listed, and the images' bytes."""
