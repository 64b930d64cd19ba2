"""Leases: taking, renewing, losing and releasing them."""
