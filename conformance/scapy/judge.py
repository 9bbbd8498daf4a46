#!/usr/bin/python3
"""Holds Postern's ESP against scapy's, packet by packet, both ways.

    judge.py --program PATH [--packets N] [--seed S]

Every algorithm with and without ESN, the four inner/outer pairs of IPv4 and
IPv6, raw ESP and ESP in UDP; payloads of every length; sequence numbers that
cross 2^32; forged and replayed packets. Prints one line a combination that
fails, then a summary; exit status 0 when nothing failed.
"""

import argparse
import collections
import itertools
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import oracle  # noqa: E402
from oracle import IP, UDP, Association, IPv6, Raw, Refused, delivered  # noqa: E402
from subject import Pipe  # noqa: E402

ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
INNER = {4: ("10.1.%d.%d", "10.2.%d.%d"), 6: ("fd00:1::%x:%x", "fd00:2::%x:%x")}


def combinations():
    """Every SA there is to judge."""
    for suite, esn, inner, outer, udp in itertools.product(
        sorted(oracle.SUITES), (False, True), (4, 6), (4, 6), (False, True)
    ):
        yield {"suite": suite, "esn": esn, "inner": inner, "outer": outer, "udp": udp}


def words(combination):
    return "%(suite)s %(esn)s IPv%(inner)d in IPv%(outer)d %(udp)s" % dict(
        combination,
        esn="esn" if combination["esn"] else "noesn",
        udp="udp" if combination["udp"] else "raw",
    )


def spec_of(combination, dice, packets):
    """A fresh SA of this kind: keys, SPI, addresses, first sequence number."""
    _, key, _, mac = oracle.SUITES[combination["suite"]]
    src, dst = ADDRESSES[combination["outer"]]
    if combination["esn"]:
        # Half of them cross a multiple of 2^32 within the run.
        first = dice.choice([1, dice.randrange(1, 1 << 20) << 32]) if dice.random() < 0.5 else (dice.randrange(1, 1 << 20) << 32) - dice.randrange(packets)
    else:
        first = dice.choice([1, dice.randrange(1, (1 << 32) - packets - 1)])
    return {
        "suite": combination["suite"],
        "key": dice.randbytes(key),
        "mac": dice.randbytes(mac),
        "spi": dice.randrange(256, 1 << 32),
        "esn": combination["esn"],
        "src": src,
        "dst": dst,
        "sport": 4500,
        "dport": dice.choice([4500, dice.randrange(1024, 65536)]),
        "udp": combination["udp"],
        "sequence": first,
    }


def inner_packet(version, length, dice):
    """A packet with `length` octets behind its IP header."""
    low = dice.randrange(256), dice.randrange(1, 255)
    src, dst = (text % low for text in INNER[version])
    payload = Raw(dice.randbytes(length))
    if length >= 8 and dice.random() < 0.7:
        payload = UDP(sport=dice.randrange(65536), dport=dice.randrange(65536)) / Raw(dice.randbytes(length - 8))
        number = 17
    else:
        number = 253
    traffic_class = dice.choice([0, 0, dice.randrange(256)])
    ttl = dice.randrange(2, 256)
    if version == 4:
        header = IP(src=src, dst=dst, tos=traffic_class, ttl=ttl, id=dice.randrange(65536), proto=number, flags=dice.choice([0, "DF"]))
    else:
        header = IPv6(src=src, dst=dst, tc=traffic_class, hlim=ttl, fl=dice.randrange(1 << 20), nh=number)
    return bytes(header / payload)


class Judge:
    def __init__(self, subject, dice):
        self.subject, self.dice = subject, dice
        self.count = collections.Counter()
        self.failures = []

    def fail(self, combination, text):
        self.count["failures"] += 1
        if len(self.failures) < 20:
            self.failures.append("%s: %s" % (words(combination), text))

    def postern_seals(self, number, combination, lengths):
        spec = spec_of(combination, self.dice, len(lengths))
        name = "out%d" % number
        self.subject.install(name, "out", spec)
        theirs = Association(spec)
        for length in lengths:
            inner = inner_packet(combination["inner"], length, self.dice)
            outer, error = self.subject.seal(name, inner)
            if outer is None:
                self.fail(combination, "did not seal %d octets: %s" % (len(inner), error))
                return
            try:
                opened = theirs.open(outer, inner)
            except Refused as refusal:
                self.fail(combination, "sealed %d octets, but %s" % (len(inner), refusal))
                return
            if opened != inner:
                self.fail(combination, "sealed %s, scapy opened %s" % (inner.hex(), opened.hex()))
                return
            self.count["sealed by Postern, opened by scapy"] += 1

    def postern_opens(self, number, combination, lengths):
        spec = spec_of(combination, self.dice, len(lengths))
        name = "in%d" % number
        self.subject.install(name, "in", spec)
        theirs = Association(spec)
        for length in lengths:
            inner = inner_packet(combination["inner"], length, self.dice)
            ecn = self.dice.choice([0, 0, self.dice.randrange(4)])
            outer = theirs.seal(inner, ecn=ecn, dscp=self.dice.randrange(64))
            if self.dice.random() < 0.15:
                self.forged(name, combination, outer)
            expected = delivered(inner, ecn)
            opened, error = self.subject.open(name, outer)
            if expected is None:
                if opened is not None:
                    self.fail(combination, "took a CE mark over a packet that knows no ECN")
                self.count["dropped as RFC 6040 asks"] += 1
            elif opened != expected:
                self.fail(combination, "scapy sealed %s, opened was %s (%s)" % (expected.hex(), opened and opened.hex(), error))
                return
            else:
                self.count["sealed by scapy, opened by Postern"] += 1
            if self.dice.random() < 0.1:
                again, _ = self.subject.open(name, outer)
                if again is not None:
                    self.fail(combination, "took a packet twice")
                self.count["replayed packets refused"] += 1

    def forged(self, name, combination, outer):
        """One bit of the ESP packet is another: refused, and nothing moves."""
        header = (40 if outer[0] >> 4 == 6 else 20) + (8 if combination["udp"] else 0)
        at = self.dice.randrange(header + 4, len(outer))
        forged = outer[:at] + bytes([outer[at] ^ 1 << self.dice.randrange(8)]) + outer[at + 1 :]
        opened, _ = self.subject.open(name, forged)
        if opened is not None:
            self.fail(combination, "took a packet with a changed bit at %d" % at)
        self.count["forged packets refused"] += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--packets", type=int, default=5760)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--longest", type=int, default=1440, help="octets behind the inner header")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    dice = random.Random(seed)
    random.seed(seed)

    every = list(combinations())
    each = -(-arguments.packets // (2 * len(every)))
    # Each direction goes through every length on its own.
    sealed, opened = (
        itertools.cycle(dice.sample(range(arguments.longest + 1), arguments.longest + 1)) for _ in range(2)
    )
    subject = Pipe(arguments.program)
    judge = Judge(subject, dice)
    for number, combination in enumerate(every):
        judge.postern_seals(number, combination, list(itertools.islice(sealed, each)))
        judge.postern_opens(number, combination, list(itertools.islice(opened, each)))
    status = subject.close()
    if status != 0:
        judge.failures.append("the subject ended with %d" % status)

    for line in judge.failures:
        print("FAILED " + line)
    for what, count in sorted(judge.count.items()):
        print("%6d %s" % (count, what))
    print("%d combinations, seed %d, scapy %s%s" % (
        len(every), seed, oracle.version(), ", high half of ESN in MACs by us" if oracle.ESN_MAC_IS_OURS else ""))
    sys.exit(1 if judge.failures else 0)


if __name__ == "__main__":
    main()
