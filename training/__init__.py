"""Training: from labelled images to an immutable engine version. Needs the `train` extra."""
