"""Published data sets as they are unpacked."""
