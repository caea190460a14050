"""`python -m steel_batch.cli`: the command line without its installed script."""

from steel_batch.cli import main

main()
