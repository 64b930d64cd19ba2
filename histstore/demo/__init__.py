"""Worker processes take the turns of many conversations at once; then every message is accounted for.

Run it with `python -m histstore.demo`. It uses the package as a user's program would.
"""
