"""Statistics and pages."""
