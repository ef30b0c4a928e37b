# What the service providers may ask of OpenBao: its own certificate and its own keys, and of each key only these verbs.
path "pki/issue/providers" {
  capabilities = ["update"]
}

# seals page tokens
path "transit/hmac/providers-paging" {
  capabilities = ["update"]
}

# envelopes: a new data key comes with its wrapping, and is unwrapped again; re-wrapping and rotation are other identities
path "transit/datakey/plaintext/providers-kek" {
  capabilities = ["update"]
}

path "transit/decrypt/providers-kek" {
  capabilities = ["update"]
}

# recognises the same provider key without storing anything that could be guessed
path "transit/hmac/providers-fingerprint" {
  capabilities = ["update"]
}
