# What the service experiments may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/experiments" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/experiments-paging" {
  capabilities = ["update"]
}
