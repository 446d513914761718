"""What the tests share: clusters, images and kubectl. Imported by fixtures; nothing here is
collected.
"""
