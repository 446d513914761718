"""Access patterns that only the compatibility routes need: numeric ids, offset pages, unpaged lists."""
