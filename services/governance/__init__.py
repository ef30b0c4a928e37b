"""Governance in three services, one per zone.

Experiments decides what may pass, production works, quarantine keeps what failed. They know each other through
protobuf contracts alone. A promotion is driven by experiments, a demotion by quarantine; both move production by asking
projects, step by step, so that a crash between two steps is resumed and never repeated.
"""
