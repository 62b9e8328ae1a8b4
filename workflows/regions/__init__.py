"""The region-guided classifier."""
