"""The commands of ``main.py``, one a file: ``add_arguments(parser)`` and ``run(args)``."""
