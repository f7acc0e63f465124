"""Differentiable front ends, as modules inside the graph."""
