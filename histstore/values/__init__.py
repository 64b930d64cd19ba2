"""Tools to make values: frozen, comparable, with a JSON form and a schema."""
