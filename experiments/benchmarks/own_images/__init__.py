"""Counting objects in user images: ``python -m experiments.benchmarks.own_images``.

Kinds of pictures that people who count objects post about, made with known counts. For each,
:func:`air.fit` with its defaults learns from the pictures alone and counts them, beside connected
regions after one threshold on the same prepared pictures, which learn nothing.
"""
