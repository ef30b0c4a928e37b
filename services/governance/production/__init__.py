"""The v2 zone: real work with the approved configuration.

Owns analyses, their tasks, leases, artifacts and code reviews. Never runs anything that is not in production.
"""
