# What the service production may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/production" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/production-paging" {
  capabilities = ["update"]
}
