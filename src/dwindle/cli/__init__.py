"""The command line: arguments, progress bars, exit codes."""
