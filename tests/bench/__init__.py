"""The benchmark: this library beside raw redis-py, beside rewriting the whole snapshot, and beside its peers."""
