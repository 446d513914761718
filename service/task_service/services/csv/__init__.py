"""CSV files of tasks: read, check, import and export."""
