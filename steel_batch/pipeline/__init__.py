"""One run from the lock to the result; many dates are many runs."""
