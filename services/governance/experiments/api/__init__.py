"""One servicer per gRPC service of this context; a method opens a transaction and calls its noun."""
