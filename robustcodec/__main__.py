"""`python -m robustcodec` is the command line tool."""

from robustcodec.cli import main

main()
