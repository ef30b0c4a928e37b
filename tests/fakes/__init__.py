"""Small real servers that stand for the outside world, and can misbehave."""
