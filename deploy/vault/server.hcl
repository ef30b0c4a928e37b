# OpenBao for compose.yaml. It unseals itself with a key file: give it a KMS or an HSM where there is one.
ui = false

storage "raft" {
  path    = "/openbao/file"
  node_id = "openbao"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  # The network of compose.yaml is private to it. On any other network, set tls_cert_file and tls_key_file.
  tls_disable = true
}

seal "static" {
  current_key_id = "1"
  current_key    = "file:///run/secrets/openbao_seal"
}

api_addr     = "http://openbao:8200"
cluster_addr = "https://127.0.0.1:8201"
