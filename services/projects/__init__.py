"""Projects, their versions (v1, v2, v3), baselines and policies.

Owns what is worked on and which configuration is in production. Knows nothing of experiments, approvals or who is
right: promotions and demotions arrive decided, from the services that may decide them.
"""
