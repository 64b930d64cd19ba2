"""What an operation costs, in counts that noise cannot move, held against `tests/bench/budget.toml`."""
