"""Who somebody is: tenants, people, invitations, sessions, signing keys.

Owns passwords (as Argon2id), tokens (as SHA-256) and the keys that access tokens are signed with (sealed by OpenBao).
Knows nothing of what anybody works on.
"""
