"""Notebooks to learn from, and what runs them."""
