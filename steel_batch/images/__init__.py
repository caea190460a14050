"""From bytes to gray pixels, and which image is to blame when that fails."""
