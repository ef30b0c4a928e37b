"""The reference worker: a client that runs analyser configurations; it knows kit and the contracts only."""
