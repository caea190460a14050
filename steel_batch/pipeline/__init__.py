"""The scoring pipeline on Ray: `run` decides what is done, `stages` how Ray Data does it."""
