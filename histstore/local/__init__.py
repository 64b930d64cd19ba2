"""The work on files behind JsonFileHistoryStore."""
