"""Victims by name, and `Victim.wrap` for anybody's module."""
