"""What a script does, where all rooms meet."""
