"""Matplotlib figures: vector, readable in greyscale and at column width, units on every axis."""
