"""Task lists: filters, query plans, keyset pages and text search."""
