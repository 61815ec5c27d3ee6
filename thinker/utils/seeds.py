"""Seeds derived from integers, the same on every machine."""

import hashlib


def derive_seed(*parts: int, bits: int = 63) -> int:
    """A seed below 2**bits from integers.

    Example: `derive_seed(0, 1) != derive_seed(1, 0)`.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - bits)
