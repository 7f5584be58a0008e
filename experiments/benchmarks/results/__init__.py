"""The tables of results, every seed counted: ``python -m experiments.benchmarks.results``.

    python -m experiments.benchmarks.results --table multi-mnist --seeds 10 --jobs 2
    python -m experiments.benchmarks.results --table multi-mnist --report --write PAGE.md

Each run is ``main.py train`` followed by ``main.py evaluate --json``, as anybody would make it.
What the latter printed is kept as JSON, with the commands and the commit. Started again, the
command makes only what has no record yet, and continues the runs that were cut short.
"""
