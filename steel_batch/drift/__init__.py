"""Whether a day differs from the days before it by more than chance."""
