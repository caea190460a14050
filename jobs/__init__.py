"""Entry points for `ray job submit`: the same flags as the command line."""
