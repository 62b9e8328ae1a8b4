"""Its web page."""
