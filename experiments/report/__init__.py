"""One page about one run: gather what is known, draw it, write it as a single HTML file."""
