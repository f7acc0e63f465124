"""The engine that turns victim x condition x data into records, the store and the believability checks."""
