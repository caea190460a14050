"""What programs call: the names at the root of the package."""
