"""Engines: the contract they keep, and the runtimes that execute them."""
