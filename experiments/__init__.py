"""Experiments with :mod:`air`: data sets, training, evaluation."""
