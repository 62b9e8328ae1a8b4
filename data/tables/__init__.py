"""Tables of radiographs as files."""
