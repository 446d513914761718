"""This product beside other task queues, on one machine, in one run: see bench/README.md."""
