"""What runs in a system's own process, loaded there by file. Each has ``run(spec, serve)``."""
