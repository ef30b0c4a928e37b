# The job that moves envelopes to the newest version of the key. It never sees a data key.
path "transit/rewrap/providers-kek" {
  capabilities = ["update"]
}

path "transit/keys/providers-kek" {
  capabilities = ["read"]
}
