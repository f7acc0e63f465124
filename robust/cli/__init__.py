"""The `robust` command: parses, calls the API, prints."""
