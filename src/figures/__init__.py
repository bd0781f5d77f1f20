"""Drawings for reports, dashboards and notebooks: each function gives a matplotlib Figure."""
