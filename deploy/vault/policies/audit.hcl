# What the service audit may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/audit" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/audit-paging" {
  capabilities = ["update"]
}

# signs checkpoints; the public key goes out with them
path "transit/sign/audit-checkpoint" {
  capabilities = ["update"]
}

path "transit/keys/audit-checkpoint" {
  capabilities = ["read"]
}
