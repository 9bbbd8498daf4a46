#!/usr/bin/python3
"""Speaks the subject's lines with scapy behind them: the judge's own control.

With no fault planted the judge has to be content, with one it has to notice:

    PLANT=esn|iv|padding|replay|forgery|selectors|checksum judge.py --program mirror.py
"""

import ipaddress
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import oracle  # noqa: E402
from oracle import IP, Association, IPv6, delivered  # noqa: E402

PLANT = os.environ.get("PLANT", "")


class Sa:
    def __init__(self, direction, fields):
        local, remote = (fields[side].rsplit("|", 1) for side in ("local", "remote"))
        (src, sport), (dst, dport) = (local, remote) if direction == "out" else (remote, local)
        mac = fields["mac"]
        self.association = Association({
            "suite": fields["suite"],
            "key": bytes.fromhex(fields["key"]),
            "mac": b"" if mac == "-" else bytes.fromhex(mac),
            "spi": int(fields["spi"], 16),
            "esn": fields["esn"] == "1" and PLANT != "esn",
            "src": src, "dst": dst, "sport": int(sport), "dport": int(dport),
            "udp": fields["encap"] == "udp",
            "sequence": int(fields["next"]),
        })
        self.seen = set()
        self.networks = [ipaddress.ip_network(fields[name]) for name in ("remote_ts", "local_ts")]

    def seal(self, inner):
        sa = self.association.sa
        six = inner[0] >> 4 == 6
        traffic_class = (inner[0] << 4 | inner[1] >> 4) & 0xFF if six else inner[1]
        if sa.tunnel_header.version == 4:
            sa.tunnel_header.flags = 2 if six or inner[6] & 0x40 else 0
        sequence = self.association.sequence
        if self.association.aead:
            iv = (sequence + (PLANT == "iv")).to_bytes(8, "big")
            sa.crypt_algo.generate_iv = lambda: iv
        if PLANT == "padding":
            sa.crypt_algo.pad = odd_padding(sa.crypt_algo)
        outer = self.association.seal(inner, traffic_class & 3, traffic_class >> 2)
        if PLANT == "checksum" and outer[0] >> 4 == 4:
            outer = outer[:10] + bytes([outer[10] ^ 1]) + outer[11:]
        return outer

    def dummy(self, octets):
        """scapy makes no dummy packets: one with another protocol number in it."""
        split, oracle.ipsec.split_for_transport = oracle.ipsec.split_for_transport, dummy_split(octets)
        try:
            return self.seal(bytes(IP(src="10.1.0.1", dst="10.2.0.1")))
        finally:
            oracle.ipsec.split_for_transport = split

    def open(self, outer):
        packet = IPv6(outer) if outer[0] >> 4 == 6 else IP(outer)
        ecn = (packet.tc if packet.version == 6 else packet.tos) & 3
        association = self.association
        packet = association._outer(outer, None)
        low = packet[oracle.ESP].seq
        # The judge sends in order, now and then a copy or a forgery.
        sequence = association.sequence
        if sequence in self.seen and low == sequence & 0xFFFFFFFF and PLANT != "replay":
            raise ValueError("replay")
        if low == (sequence - 1) & 0xFFFFFFFF and sequence - 1 in self.seen:
            if PLANT != "replay":
                raise ValueError("replay")
            sequence -= 1
        association._at(sequence)
        inner = bytes(association.sa.decrypt(packet, verify=PLANT != "forgery"))
        self.seen.add(sequence)
        association.sequence = sequence + 1
        packet = IPv6(inner) if inner[0] >> 4 == 6 else IP(inner)
        ends = (ipaddress.ip_address(end) for end in (packet.src, packet.dst))
        if PLANT != "selectors" and any(end not in network for end, network in zip(ends, self.networks)):
            raise ValueError("policy")
        inner = delivered(inner, ecn)
        if inner is None:
            raise ValueError("ecn")
        return inner


def dummy_split(octets):
    plain = oracle.ipsec.split_for_transport

    def split(packet, protocol):
        header, _, _ = plain(packet, protocol)
        return header, 59, oracle.Raw(bytes(octets))

    return split


def odd_padding(algo):
    plain = type(algo).pad

    def pad(esp):
        esp = plain(algo, esp)
        esp.padding = bytes(esp.padlen)
        return esp

    return pad


def main():
    sas = {}
    for line in sys.stdin:
        verb, name, *rest = line.split()
        try:
            if verb == "sa":
                sas[name] = Sa(rest[0], dict(word.split("=", 1) for word in rest[1:]))
                answer = "ok"
            elif verb == "dummy":
                answer = "packet " + sas[name].dummy(int(rest[0])).hex()
            else:
                packet = bytes.fromhex(rest[0])
                answer = "packet " + (sas[name].seal(packet) if verb == "seal" else sas[name].open(packet)).hex()
        except Exception as error:  # noqa: BLE001: whatever scapy raises is an answer
            answer = "error %r" % error
        print(answer, flush=True)


if __name__ == "__main__":
    main()
