"""Labels to check: the list of them, the data as corrected, other tools."""
