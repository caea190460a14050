"""Engines: the contract that they fulfil, and the runtimes that execute them."""
