"""Entry points for `ray job submit`, with the flags of the command line."""
