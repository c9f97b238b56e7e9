"""Estimators: predictions of many runs to numbers per example."""
