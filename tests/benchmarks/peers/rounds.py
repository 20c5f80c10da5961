"""How rounds are counted, for each peer alike; the standard library only."""

import threading
import time
from collections.abc import Callable, Sequence


def rounds_a_second(rounds: Sequence[Callable[[], object]], seconds: float) -> float:
    """Return how many rounds threads do in a second, each its own, one after another."""
    counts = [0] * len(rounds)
    for one in rounds:
        one()  # what is made once is not counted
    ends = time.perf_counter() + seconds

    def keep_going(place: int) -> None:
        while time.perf_counter() < ends:
            rounds[place]()
            counts[place] += 1

    began = time.perf_counter()
    threads = [threading.Thread(target=keep_going, args=(place,)) for place in range(len(rounds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)
