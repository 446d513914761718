"""The queue behaves like its model in histories of steps drawn by Hypothesis.

MODEL_EXAMPLES sets the number of histories, MODEL_SEED the first seed.
"""

import os

import pytest

from tests.support.queue_model.machine import ROUND, play
from tests.support.queue_model.real_queue import RealQueue

ROUNDS = -(-int(os.environ.get("MODEL_EXAMPLES", "72")) // ROUND)
FIRST = int(os.environ.get("MODEL_SEED", "0"))


@pytest.mark.timeout(600 + 60 * ROUNDS)
def test_histories_equal_the_model_and_break_no_invariant(real_queue: RealQueue) -> None:
    for number in range(FIRST, FIRST + ROUNDS):
        try:
            play(real_queue, number)
        except BaseException as error:
            error.add_note(f"To reproduce: MODEL_SEED={number} MODEL_EXAMPLES={ROUND}")
            raise
