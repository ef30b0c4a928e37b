"""The mechanism that all services share."""
