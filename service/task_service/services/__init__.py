"""Operations on tasks and everything around them: the layer between the API or the loops and the
store.

All services have one calling convention: the transaction first, then the input, then the caller,
then options.

- A service that writes takes `transaction: Transaction`. The API opens it once per request (`TransactionManager.write`).
- A service that only reads takes `connection: AsyncConnection`, and its name begins with `read_`.
- A service that opens transactions or connections itself takes `transactions: TransactionManager`, for example because
  it hashes a password between two transactions, or reads page by page.

`tests/unit/test_calling_convention.py` checks the convention.
"""
