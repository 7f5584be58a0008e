"""Measurements kept with the project, and the tables made of them."""
