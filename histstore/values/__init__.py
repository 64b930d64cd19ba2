"""Building blocks of the public values: frozen classes and containers, JSON forms and schemas, error texts."""
