# What the service quarantine may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/quarantine" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/quarantine-paging" {
  capabilities = ["update"]
}
