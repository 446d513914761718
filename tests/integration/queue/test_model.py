"""Whatever workers, people and time do in whatever order, the queue does as designed: histories that hypothesis draws.

MODEL_EXAMPLES plays more of them, MODEL_SEED others.
"""

import os

import pytest

from tests.support.queue_model.machine import ROUND, play
from tests.support.queue_model.stage import Stage

ROUNDS = -(-int(os.environ.get("MODEL_EXAMPLES", "72")) // ROUND)
FIRST = int(os.environ.get("MODEL_SEED", "0"))


@pytest.mark.timeout(600 + 60 * ROUNDS)
def test_every_history_is_as_the_model_says_and_breaks_no_invariant(stage: Stage) -> None:
    for number in range(FIRST, FIRST + ROUNDS):
        try:
            play(stage, number)
        except BaseException as error:
            error.add_note(f"To repeat it: MODEL_SEED={number} MODEL_EXAMPLES={ROUND}")
            raise
