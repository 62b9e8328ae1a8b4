"""Records, splits and loaders."""
