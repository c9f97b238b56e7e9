"""Localisation: parameters of several models to numbers per layer."""
