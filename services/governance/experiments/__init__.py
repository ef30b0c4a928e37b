"""The v1 zone: what is tried, how it scored, and whether it may pass.

Owns datasets, experiments, evaluations, promotions and the blacklist. Does not own production: it asks projects
to move it.
"""
