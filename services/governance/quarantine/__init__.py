"""The v3 zone: sealed failures, and the narrow way back.

Owns quarantine requests, sealed records and re-evaluations. A sealed record never changes; what happens to it is added
beside it.
"""
