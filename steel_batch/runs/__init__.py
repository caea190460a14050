"""What one run leaves in the store, except its rows."""
