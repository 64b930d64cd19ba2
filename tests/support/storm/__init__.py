"""A storm: rough proxies, worker processes that write down what they call and are told, and the checks of all that."""
