"""Roles as they are stored: the readable lower-case name of the enum's value."""

from triptych.common.v1.role_pb2 import Role


def stored(role: "Role.ValueType") -> str:
    """Give the name that a column holds."""
    return Role.Name(role).removeprefix("ROLE_").lower()


def wire(name: str) -> "Role.ValueType":
    """Give the value of a column's name."""
    return Role.Value(f"ROLE_{name.upper()}")
