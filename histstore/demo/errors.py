"""What ends the demonstration early."""


class UsageError(Exception):
    """The input, or the server that was named, cannot be used."""


class DemoError(Exception):
    """The demonstration itself broke off: a worker failed, or nothing moved any more."""
