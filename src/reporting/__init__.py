"""Finished runs in one table: collected, grouped by what was trained, compared, written."""
