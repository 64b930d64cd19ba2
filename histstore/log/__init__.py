"""A run's log: encoding, entries, replay, and what a save must write. `body.CODECS` lists the codecs of bodies."""
