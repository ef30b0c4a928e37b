# What the service projects may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/projects" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/projects-paging" {
  capabilities = ["update"]
}
