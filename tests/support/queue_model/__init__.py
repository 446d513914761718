"""The queue beside a model of it: hypothesis draws what happens next, both do it, and their answers must be the same.

`model` is the queue as the design wants it, `stage` the real one, `workers` and `people` what they may do to both, and
`machine` plays histories of it. After each step the tables must be the model's, and every invariant must hold.
Statements that would wait for a lock are not begun: what two statements may do to each other while both are under way
is forced where it matters, in `integration/queue/test_claims.py`.
"""
