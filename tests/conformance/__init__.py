"""What users of the services A to E rely on, as black-box tests over HTTP: see conftest."""
