"""The operating system: processes, devices, signals, streams."""
