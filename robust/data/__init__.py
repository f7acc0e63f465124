"""Data sets, and the reading of audio files."""
