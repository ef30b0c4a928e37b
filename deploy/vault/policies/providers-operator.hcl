# A person who rotates, retires and destroys versions of the key. It can neither use the key nor export it.
path "transit/keys/providers-kek" {
  capabilities = ["read"]
}

path "transit/keys/providers-kek/rotate" {
  capabilities = ["update"]
}

path "transit/keys/providers-kek/config" {
  capabilities = ["update"]
  # the versions that are accepted, and nothing that would let the key out
  allowed_parameters = {
    "min_decryption_version" = []
    "min_encryption_version" = []
  }
}

path "transit/keys/providers-kek/trim" {
  capabilities = ["update"]
}
