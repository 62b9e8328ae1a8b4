"""Its scores and pages."""
