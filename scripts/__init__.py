"""Scripts of the Makefile and the CI."""
