"""Live event streams: one reader of the database per process, and a position in the order of events
per stream.
"""
