"""Threat models, losses and optimisers; imports torch alone and takes any callable as the victim."""
