"""Entry point of ``python -m cytoserve``, which does the same as the command ``cytoserve``."""

from cytoserve.cli import main

main(prog_name="cytoserve")
