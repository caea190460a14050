"""One run, from taking the lock to the result; many dates are many runs."""
