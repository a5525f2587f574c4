"""Reports: measured records as a page to read; nothing is measured here."""
