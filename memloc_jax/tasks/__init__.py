"""Tasks: from text and labels to integer arrays."""
