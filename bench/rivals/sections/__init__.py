"""What is measured, a module each.

Every module has

- `EVERYONE`: whether all products are measured, or only ours unless others are named.
- `def rounds(bench, product)`: a generator that yields the figures of one round at a time. The bench asks each product
  in turn for its next round, so that what else happens on the machine meets all of them.
"""
