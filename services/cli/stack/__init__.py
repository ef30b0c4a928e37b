"""The stack behind `triptych up`: three real servers from their wheels, what is provisioned, the services.

Everything listens on loopback and keeps its data in one home folder. Nothing here knows a business rule,
and no service imports it.
"""
