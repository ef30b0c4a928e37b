"""The one error of the stack: its text says what is wrong and what to do, and is printed as it is."""


class StackFault(RuntimeError):
    """The stack cannot be started, reached or stopped."""
