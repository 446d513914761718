"""Access patterns of the compatibility routes: numeric ids, offset pages, unpaged lists."""
