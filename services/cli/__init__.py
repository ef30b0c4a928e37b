"""The `triptych` command: it starts, checks and drives the services, and no service imports it."""
