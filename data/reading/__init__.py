"""Files to pixels, or a reason."""
