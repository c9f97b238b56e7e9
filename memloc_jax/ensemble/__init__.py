"""Ensembles: many fine-tunings at once, as rows of one array."""
