"""What the contract promises, checked over the descriptors themselves."""
