"""From bytes to gray pixels, and which image is to blame if that fails."""
