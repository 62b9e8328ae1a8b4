"""The loop, once: command line, devices, processes, schedules, optimizer groups, run folder, fit."""
