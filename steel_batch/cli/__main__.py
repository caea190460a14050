"""`python -m steel_batch.cli`: run the command line without its installed script."""

from steel_batch.cli import main

main()
