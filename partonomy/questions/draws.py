"""The random draws of a question: NumPy's numbers without the overhead of NumPy calls.

A question takes dozens of single numbers, and `numpy.random.Generator` spends microseconds on each. NumPy's policy
fixes the stream of its PCG64 bit generator. This module derives numbers from the stream by the same rules as
`Generator`, so that files built with either are identical. A test compares the two.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

WORDS_PER_BLOCK = 48  # about as many as a question takes
HALF = (1 << 32) - 1
TO_UNIT = 2.0**-53


class Draws:
    """The draws of `numpy.random.default_rng(entropy)`, in the same order.

    Args:
        entropy: integers, 0 or more.
    """

    __slots__ = ("_half", "_source", "_words")

    def __init__(self, entropy: int | Sequence[int]) -> None:
        numbers = [entropy] if isinstance(entropy, int) else entropy
        # NumPy takes the small numbers of an array as they are, instead of splitting each into 32-bit words.
        is_small = max(numbers) <= HALF
        self._source = np.random.PCG64(np.array(numbers, dtype=np.uint32) if is_small else entropy)
        self._words: list[int] = []  # of 64 bits; the last one is next
        self._half = -1  # the remaining half of a word of which 32 bits were taken; -1: none

    def random(self) -> float:
        """Draw a number in [0, 1)."""
        words = self._words or self._refill()
        return (words.pop() >> 11) * TO_UNIT

    def below(self, count: int) -> int:
        """Draw an integer in [0, count), count < 2^32, like NumPy's `integers` (Lemire's method on 32 bits)."""
        if count == 1:  # nothing to choose, so no bits are taken
            return 0
        if not 0 < count <= HALF:
            raise ValueError(f"cannot draw one of {count} numbers")
        half = self._half
        if half >= 0:
            self._half = -1
        else:
            word = (self._words or self._refill()).pop()
            self._half = word >> 32
            half = word & HALF
        product = half * count
        if product & HALF < count:
            smallest = (HALF + 1 - count) % count
            while product & HALF < smallest:
                product = self._next_half() * count
        return product >> 32

    def permutation(self, count: int) -> list[int]:
        """Return the numbers 0 to count - 1 in random order."""
        numbers = list(range(count))
        words, half = self._words, self._half
        for last, mask in _places(count):
            while True:  # until the masked bits give an existing position
                if half < 0:
                    if not words:
                        words = self._refill()
                    half = words.pop()
                    other = half & mask
                    half >>= 32
                else:
                    other = half & mask
                    half = -1
                if other <= last:
                    break
            numbers[last], numbers[other] = numbers[other], numbers[last]
        self._half = half
        return numbers

    def in_random_order(self, count: int) -> Iterator[int]:
        """Yield the numbers 0 to count - 1 in random order, each drawn on demand, so that few of many cost little.

        The order differs from NumPy's permutation, which is drawn as a whole.
        """
        numbers = list(range(count))
        for first in range(count):
            other = first + self.below(count - first)
            number = numbers[other]
            numbers[other] = numbers[first]
            yield number

    def _next_half(self) -> int:
        """Return the lower 32 bits of a word; the next call returns the upper ones."""
        half = self._half
        if half >= 0:
            self._half = -1
            return half
        word = (self._words or self._refill()).pop()
        self._half = word >> 32
        return word & HALF

    def _refill(self) -> list[int]:
        self._words = self._source.random_raw(WORDS_PER_BLOCK)[::-1].tolist()
        return self._words


@lru_cache(maxsize=1024)
def _places(count: int) -> tuple[tuple[int, int], ...]:
    """Return the positions from the last down to the second, each with a mask of the bits of its number."""
    return tuple((last, (1 << last.bit_length()) - 1) for last in range(count - 1, 0, -1))
