"""Reports: tables to figures and one HTML page."""
