"""Black-box tests of the services A to E over HTTP: see conftest."""
