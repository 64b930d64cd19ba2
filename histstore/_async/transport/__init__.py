"""Send requests: tries, connections, sockets. A router is another implementation of `transport.Transport`."""
