"""A network cut at its branches into stages, so that each task can run at a rate of its own. Running them needs no torch."""
