#!/usr/bin/python3
"""Holds Postern's ESP against scapy's, packet by packet, both ways.

    judge.py --program PATH [--packets N] [--seed S]
    judge.py --program "ip netns exec GATEWAY PATH" --wire CLIENT,WIRE ...

Every algorithm with and without ESN, the four inner/outer pairs of IPv4 and
IPv6, raw ESP and ESP in UDP; payloads of every length; sequence numbers that
cross 2^32; forged, replayed and foreign packets. Prints what failed, then a
summary; exit status 0 when nothing failed.

Without --wire the program seals and opens what it is told on standard input.
With it, the program is a data plane: the judge is the client on one interface
and the peer on the other (wire.py).
"""

import argparse
import collections
import itertools
import os
import random
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import oracle  # noqa: E402
from oracle import IP, UDP, Association, IPv6, Raw, Refused, delivered  # noqa: E402
from subject import Pipe  # noqa: E402
from wire import Wire  # noqa: E402

# Postern's side first.
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
# The networks of combination number N, and one that belongs to nobody.
NETWORKS = {4: ("10.1.%d.0/24", "10.2.%d.0/24"), 6: ("fd00:1:0:%x::/64", "fd00:2:0:%x::/64")}
FOREIGN = {4: "172.16.0.0/24", 6: "fd00:99::/64"}


class Combination:
    """One kind of SA pair, with fresh keys."""

    def __init__(self, number, kind, dice, packets):
        self.number = number
        self.suite, self.esn, self.inner, self.outer, self.udp = kind
        self.networks = tuple(text % number for text in NETWORKS[self.inner])
        self.specs = {"out": self._spec(OUTER[self.outer], dice, packets)}
        self.specs["in"] = self._spec(OUTER[self.outer][::-1], dice, packets)
        # A pair has one set of ports: ours is 4500, the peer's may be behind a NAT.
        port = dice.choice([4500, dice.randrange(1024, 65536)])
        self.specs["out"].update(sport=4500, dport=port)
        self.specs["in"].update(sport=port, dport=4500)

    def _spec(self, addresses, dice, packets):
        _, key, _, mac = oracle.SUITES[self.suite]
        if not self.esn:
            first = dice.choice([1, dice.randrange(1, (1 << 32) - 3 * packets - 9)])
        elif dice.random() < 0.5:
            first = dice.choice([1, dice.randrange(1, 1 << 20) << 32])
        else:
            # The low half wraps within the run.
            first = (dice.randrange(1, 1 << 20) << 32) - dice.randrange(packets)
        return {
            "number": self.number,
            "suite": self.suite,
            "key": dice.randbytes(key),
            "mac": dice.randbytes(mac),
            "spi": dice.randrange(256, 1 << 32),
            "esn": self.esn,
            "src": addresses[0],
            "dst": addresses[1],
            "udp": self.udp,
            "sequence": first,
            "networks": self.networks,
        }

    def __str__(self):
        return "%s-%s IPv%d in IPv%d %s" % (
            self.suite, "esn" if self.esn else "noesn", self.inner, self.outer, "in UDP" if self.udp else "raw")


def kinds():
    """Every kind of SA there is to judge."""
    return itertools.product(sorted(oracle.SUITES), (False, True), (4, 6), (4, 6), (False, True))


def host(network, dice):
    """Some address in a network."""
    prefix = network.split("/")[0]
    return prefix + "%x" % dice.randrange(1, 65536) if ":" in prefix else prefix[:-1] + str(dice.randrange(1, 255))


def inner_packet(source, destination, length, dice):
    """A packet with `length` octets behind its IP header."""
    payload, number = Raw(dice.randbytes(length)), 253
    if length >= 8 and dice.random() < 0.7:
        payload = UDP(sport=dice.randrange(65536), dport=dice.randrange(65536)) / Raw(dice.randbytes(length - 8))
        number = 17
    fields = {"src": host(source, dice), "dst": host(destination, dice)}
    traffic_class, ttl = dice.choice([0, 0, dice.randrange(256)]), dice.randrange(3, 256)
    if ":" in source:
        header = IPv6(tc=traffic_class, hlim=ttl, fl=dice.randrange(1 << 20), nh=number, **fields)
    else:
        header = IP(tos=traffic_class, ttl=ttl, id=dice.randrange(65536), proto=number, flags=dice.choice([0, "DF"]), **fields)
    return bytes(header / payload)


class Judge:
    def __init__(self, subject, dice):
        self.subject, self.dice = subject, dice
        self.count = collections.Counter()
        self.failures = []

    def fail(self, combination, text):
        self.count["failures"] += 1
        if len(self.failures) < 20:
            self.failures.append("%s: %s" % (combination, text))

    def install(self, combination):
        for direction, spec in combination.specs.items():
            self.subject.install("%s%d" % (direction, combination.number), direction, spec)

    def postern_seals(self, combination, lengths):
        name = "out%d" % combination.number
        theirs = Association(combination.specs["out"])
        local, remote = combination.networks
        for length in lengths:
            inner = inner_packet(local, remote, length, self.dice)
            outer, error = self.subject.seal(name, inner)
            if outer is None:
                return self.fail(combination, "did not seal %d octets: %s" % (len(inner), error))
            inner = self.subject.forwarded(inner)
            try:
                opened = theirs.open(outer, inner)
            except Refused as refusal:
                return self.fail(combination, "sealed %d octets, but %s" % (len(inner), refusal))
            if opened != inner:
                return self.fail(combination, "sealed %s, scapy opened %s" % (inner.hex(), opened.hex()))
            self.count["sealed by Postern, opened by scapy"] += 1
            if self.subject.makes_dummies and self.dice.random() < 0.05:
                self.dummy(name, combination, theirs, length)

    def dummy(self, name, combination, theirs, length):
        outer, error = self.subject.dummy(name, length)
        try:
            if outer is None:
                raise Refused(error)
            theirs.open(outer, dummy=True)
        except Refused as refusal:
            self.fail(combination, "dummy packet of %d octets: %s" % (length, refusal))
        self.count["dummy packets by Postern, known as such by scapy"] += 1

    def postern_opens(self, combination, lengths):
        name = "in%d" % combination.number
        theirs = Association(combination.specs["in"])
        local, remote = combination.networks
        for length in lengths:
            inner = inner_packet(remote, local, length, self.dice)
            ecn = self.dice.choice([0, 0, self.dice.randrange(4)])
            outer = theirs.seal(inner, ecn=ecn, dscp=self.dice.randrange(64))
            if self.dice.random() < 0.15:
                self.refused(name, combination, self.forged(outer, combination), "forged packets refused")
            expected = delivered(inner, ecn)
            if expected is None:
                self.refused(name, combination, outer, "dropped as RFC 6040 asks")
                # Every length is opened once: without a mark on the outside nothing forbids it.
                ecn = 0
                outer = theirs.seal(inner, ecn=ecn, dscp=self.dice.randrange(64))
                expected = delivered(inner, ecn)
            opened, error = self.subject.open(name, outer)
            expected = self.subject.forwarded(expected)
            if opened != expected:
                return self.fail(combination, "scapy sealed %s, opened was %s (%s)" % (expected.hex(), opened and opened.hex(), error))
            self.count["sealed by scapy, opened by Postern"] += 1
            if self.dice.random() < 0.1:
                self.refused(name, combination, outer, "replayed packets refused")
            if self.dice.random() < 0.05:
                foreign = inner_packet(FOREIGN[combination.inner], local, length, self.dice)
                self.refused(name, combination, theirs.seal(foreign), "packets outside the selectors refused")

    def refused(self, name, combination, outer, what):
        opened, _ = self.subject.open(name, outer, refusal=True)
        if opened is not None:
            self.fail(combination, "not among the %s: %s" % (what, opened.hex()))
        self.count[what] += 1

    def forged(self, outer, combination):
        """One bit of the ESP packet behind the SPI is another."""
        header = (40 if outer[0] >> 4 == 6 else 20) + (8 if combination.udp else 0)
        at = self.dice.randrange(header + 4, len(outer))
        return outer[:at] + bytes([outer[at] ^ 1 << self.dice.randrange(8)]) + outer[at + 1 :]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--packets", type=int, default=5760)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--longest", type=int, default=1440, help="octets behind the inner header")
    parser.add_argument("--wire", default=None, metavar="CLIENT,WIRE", help="interfaces of a data plane")
    arguments = parser.parse_args()
    seed = random.randrange(1 << 32) if arguments.seed is None else arguments.seed
    dice = random.Random(seed)
    random.seed(seed)

    program = shlex.split(arguments.program)
    subject = Wire(program, *arguments.wire.split(",")) if arguments.wire else Pipe(program)
    judge = Judge(subject, dice)
    every = list(kinds())
    each = -(-arguments.packets // (2 * len(every)))
    combinations = [Combination(number, kind, dice, each) for number, kind in enumerate(every)]
    for combination in combinations:
        judge.install(combination)
    subject.start()
    # Each direction goes through every length on its own.
    sealed, opened = (
        itertools.cycle(dice.sample(range(arguments.longest + 1), arguments.longest + 1)) for _ in range(2)
    )
    for combination in combinations:
        judge.postern_seals(combination, list(itertools.islice(sealed, each)))
        judge.postern_opens(combination, list(itertools.islice(opened, each)))
    status = subject.close()
    if status != 0:
        judge.failures.append("the subject ended with %d" % status)

    for line in judge.failures:
        print("FAILED " + (line if len(line) < 400 else line[:300] + " ... " + line[-80:]))
    for what, count in sorted(judge.count.items()):
        print("%6d %s" % (count, what))
    print("%d combinations, seed %d, scapy %s%s" % (
        len(every), seed, oracle.version(), ", high half of ESN in MACs by us" if oracle.ESN_MAC_IS_OURS else ""))
    sys.exit(1 if judge.failures else 0)


if __name__ == "__main__":
    main()
