"""What both shells know of servers and connections. No I/O of its own."""
