"""Model-based test of the queue.

Hypothesis draws sequences of steps. Each step runs on the real queue and on a model, and the
results must be equal. `model` is the model, `real_queue` the real one, `workers` and `users`
contain the steps, and `machine` runs sequences of them. After each step the tables must equal those
of the model, and every invariant must hold. A statement that would wait for a lock is not started;
tests of `integration/queue` force the important interleavings of two concurrent statements.
"""
