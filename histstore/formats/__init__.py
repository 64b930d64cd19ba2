"""How values are written as JSON, and read back."""
