"""How deeply msgpack is nested, found without recursion and without decoding anything.

A decoder goes down a level of the stack for each array inside of an array, and how deep a stack may be differs between processes. So
what replicas have to decode alike must be shallow, and this tells before it is taken.

What always holds: a byte is looked at once at most, and nothing is kept but a number for each level, of which there are at most as many as
are asked about. Bytes that are no msgpack are no error: whoever decodes them gets no further than this does.
"""

from __future__ import annotations

from typing import Final

_BYTES, _ITEMS, _PAIRS = 0, 1, 2
"""What a length counts."""

_HEADS: Final[dict[int, tuple[int, int, int]]] = {
    **{0xC4 + power: (1 << power, 0, _BYTES) for power in range(3)},  # bin 8, 16, 32
    **{0xC7 + power: (1 << power, 1, _BYTES) for power in range(3)},  # ext
    **{0xCA + power: (0, 4 << power, _BYTES) for power in range(2)},  # float
    **{0xCC + power: (0, 1 << power, _BYTES) for power in range(4)},  # uint
    **{0xD0 + power: (0, 1 << power, _BYTES) for power in range(4)},  # int
    **{0xD4 + power: (0, 1 + (1 << power), _BYTES) for power in range(5)},  # ext of a fixed length
    **{0xD9 + power: (1 << power, 0, _BYTES) for power in range(3)},  # str
    **{0xDC + power: (2 << power, 0, _ITEMS) for power in range(2)},  # array 16, 32
    **{0xDE + power: (2 << power, 0, _PAIRS) for power in range(2)},  # map
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (0, 0, _BYTES)),  # nil, false, true
}
"""By the first byte of a value, where that does not say all: how many bytes its length has, how many follow in any case, and what the
length counts."""


def nested_deeper(data: bytes, most: int) -> bool:
    """Whether `data` has an array or a map inside of `most` others, as far as it is msgpack."""
    missing = [1]  # how many values are still to come, of the whole and of each array that is open
    position = 0
    while missing and position < len(data):
        if not missing[-1]:
            missing.pop()
            continue
        missing[-1] -= 1
        head = data[position]
        position += 1
        if head < 0x80 or head >= 0xE0:  # a small integer
            continue
        if head < 0xA0:  # a short map or array
            values = 2 * (head & 15) if head < 0x90 else head & 15
        elif head < 0xC0:  # a short str
            position += head & 31
            continue
        elif head not in _HEADS:
            return False
        else:
            size, fixed, counts = _HEADS[head]
            length = int.from_bytes(data[position : position + size], "big")
            position += size + fixed
            if counts == _BYTES:
                position += length
                continue
            values = length * counts
        if len(missing) > most:
            return True
        missing.append(values)
    return False
