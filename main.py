# PYTHON_ARGCOMPLETE_OK
"""Attend, Infer, Repeat from the command line; see ``python main.py --help``."""

import sys

from experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
