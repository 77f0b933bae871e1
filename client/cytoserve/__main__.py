"""``python -m cytoserve``: the same as the command ``cytoserve``."""

from cytoserve.cli import main

main(prog_name="cytoserve")
