#!/usr/bin/python3
"""Plays a peer that misbehaves: sends ESP in UDP with the keys of a real SA.

    forge.py INTERFACE MAC SOURCE DESTINATION SPI KEY FIRST INNER_SOURCE INNER_DESTINATION KIND=COUNT ...

KEY is that of AES-GCM with a 16-octet ICV, its salt last, in hexadecimal like SPI; FIRST is the first
sequence number. One datagram a count, in the order named, with new sequence numbers:

    valid        a UDP packet from INNER_SOURCE to INNER_DESTINATION
    again        the last valid packet once more
    source       one from an address that no selector covers
    destination  one to an address that no selector covers
    garbage      octets that are no IP packet, under IPv4's number
    family       an IPv4 packet under IPv6's number
    transport    a UDP packet without IP header: transport mode
    padding      a valid packet with wrong padding
    length       a pad length that is larger than the packet
    ragged       a length that no sealed packet has
    changed      a valid packet with a changed ICV
    dummy        a dummy packet (RFC 4303 section 2.6), which is no mistake
    stranger     an SPI that nobody has
    stub         a UDP payload that is neither ESP nor IKE nor a keepalive
    empty        a UDP datagram without payload
"""

import socket
import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def checksum(octets):
    total = sum(struct.unpack("!%dH" % (len(octets) // 2), octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, destination, protocol, payload):
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def udp(source, destination, payload):
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


class Forger:
    def __init__(self, arguments):
        interface, mac, self.source, self.destination, spi, key, first, *inner = arguments
        self.inner = inner
        self.spi, self.key, self.sequence = int(spi, 16), bytes.fromhex(key), int(first)
        self.last = None
        self.ethernet = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\x63\x08\x00"
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((interface, 0))

    def send(self, payload):
        self.socket.send(self.ethernet + ipv4(self.source, self.destination, 17, udp(4500, 4500, payload)))

    def seal(self, text, next_header, padding=None, pad_length=None, spi=None):
        header = struct.pack("!LL", self.spi if spi is None else spi, self.sequence)
        iv = struct.pack("!Q", self.sequence)
        self.sequence += 1
        if padding is None:
            padding = bytes(range(1, 1 + -(len(text) + 2) % 4))
        pad_length = len(padding) if pad_length is None else pad_length
        text += padding + bytes([pad_length, next_header])
        return header + iv + AESGCM(self.key[:-4]).encrypt(self.key[-4:] + iv, text, header)

    def packet(self, kind):
        source, destination = self.inner
        segment = udp(9999, 9, b"forged, but well")
        whole = ipv4(source, destination, 17, segment)
        if kind == "valid":
            self.last = self.seal(whole, 4)
            return self.last
        if kind == "changed":
            sealed = self.seal(whole, 4)
            return sealed[:-1] + bytes([sealed[-1] ^ 1])
        return {
            "again": lambda: self.last,
            "source": lambda: self.seal(ipv4("10.77.0.1", destination, 17, segment), 4),
            "destination": lambda: self.seal(ipv4(source, "10.77.0.1", 17, segment), 4),
            "garbage": lambda: self.seal(b"\xf0" * 40, 4),
            "family": lambda: self.seal(whole, 41),
            "transport": lambda: self.seal(segment, 17),
            "padding": lambda: self.seal(whole, 4, padding=b"\x01\x02\x09\x04\x05\x06"),
            "length": lambda: self.seal(whole, 4, pad_length=255),
            "ragged": lambda: self.seal(whole, 4)[:-3],
            "dummy": lambda: self.seal(b"\0" * 60, 59),
            "stranger": lambda: self.seal(whole, 4, spi=self.spi ^ 0x5A5A5A),
            "stub": lambda: b"\x00\x01",
            "empty": lambda: b"",
        }[kind]()


def main():
    forger = Forger(sys.argv[1:10])
    sent = 0
    for order in sys.argv[10:]:
        kind, count = order.split("=")
        for _ in range(int(count)):
            forger.send(forger.packet(kind))
            sent += 1
    print(sent)


main()
