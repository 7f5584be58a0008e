"""Figures for the report and the README: tensors and numbers in, matplotlib figures out."""
