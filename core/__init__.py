"""What every room may use: files, flags, devices, processes, tasks."""
