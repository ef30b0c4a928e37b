"""AI providers, people's and agents' own keys for them, quotas, usage and cost.

Owns secrets that belong to others: a key goes in, is sealed under a data key of its own, and comes out for named
services only. Knows nothing of what a call is for.
"""
