#!/usr/bin/env python3
"""Makes modp.txt: MODP key exchanges computed by Python's pow() from the primes of RFC 3526,
which are built here from their definition (section 3 and 4), not from their digits.

    2^2048 - 2^1984 - 1 + 2^64 * ( [2^1918 pi] + 124476 )
    2^3072 - 2^3008 - 1 + 2^64 * ( [2^2942 pi] + 1690314 )

Usage: generate_modp.py > modp.txt
"""

import hashlib


def pi_bits(bits):
    """floor(2^bits * pi) by Machin's formula."""
    one = 1 << (bits + 64)

    def arctan_of_inverse(x):
        term = one // x
        total, k, sign = term, 3, -1
        while term:
            term //= x * x
            total += sign * (term // k)
            k, sign = k + 2, -sign
        return total

    return (4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))) >> 64


def prime(bits, pi, add):
    return (1 << bits) - (1 << (bits - 64)) - 1 + ((pi_bits(pi) + add) << 64)


def exponent(label):
    octets = hashlib.sha512(label.encode()).digest()[:40]
    return bytes([octets[0] | 0x80]) + octets[1:]


for name, bits, pi, add in (("modp2048", 2048, 1918, 124476), ("modp3072", 3072, 2942, 1690314)):
    p = prime(bits, pi, add)
    ours, theirs = exponent(name + " ours"), exponent(name + " theirs")
    x, y = int.from_bytes(ours, "big"), int.from_bytes(theirs, "big")
    public, peer = pow(2, x, p), pow(2, y, p)
    shared = pow(peer, x, p)
    assert shared == pow(public, y, p)
    for label, value in (("prime", p), ("public", public), ("peer", peer), ("shared", shared)):
        print(name, label, value.to_bytes(bits // 8, "big").hex())
    print(name, "private", ours.hex())
