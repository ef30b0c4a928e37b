"""The tamper-evident record of everything that the other services did.

Owns the log, its Merkle tree and its signed checkpoints. It only ever adds, believes no emitter about its name, and
understands no event.
"""
