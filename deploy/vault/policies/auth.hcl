# What the service auth may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/auth" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/auth-paging" {
  capabilities = ["update"]
}

# seals TOTP secrets and signing keys at rest
path "transit/encrypt/auth-seal" {
  capabilities = ["update"]
}

path "transit/decrypt/auth-seal" {
  capabilities = ["update"]
}

path "transit/hmac/auth-seal" {
  capabilities = ["update"]
}
