"""What is judged: a running data plane, with the judge as its client and as its peer.

    judge, CLIENT  <-- clear packets -->  gateway  <-- ESP -->  judge, WIRE

Both interfaces of the judge are ends of veth pairs whose other ends are the
gateway's. The gateway has fixed neighbour entries for the judge, who answers
no ARP; packets are sent and seen as frames, so no stack on this side judges
along.
"""

import select
import socket
import struct
import time

from oracle import IP
from subject import Lines, record_line

SOL_PACKET, PACKET_AUXDATA, CSUM_NOT_READY = 263, 8, 1 << 3
OUTGOING = 4
# How long a packet may take through the gateway, and how long the judge waits
# for one that must not come.
LIMIT, PATIENCE = 5.0, 0.03


class Link:
    """One interface of the judge."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 0))
        self.socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        with open("/sys/class/net/%s/address" % interface) as file:
            self.mac = bytes.fromhex(file.read().strip().replace(":", ""))
        # The other end's address differs in its last octet: 2 here, 1 there.
        self.peer = self.mac[:5] + b"\x01"

    def send(self, packet):
        kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
        self.socket.send(self.peer + self.mac + kind + packet)

    def receive(self, wanted, limit):
        """The next packet that `wanted` accepts, or None."""
        end = time.monotonic() + limit
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            frame, ancillary, _, address = self.socket.recvmsg(65536, 256)
            if address[2] == OUTGOING or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            packet = self._complete(frame[14:], ancillary)
            if wanted(packet):
                return packet

    @staticmethod
    def _complete(packet, ancillary):
        """Without the padding of short frames, and without a checksum nobody has computed."""
        six = packet[0] >> 4 == 6
        length = 40 + struct.unpack("!H", packet[4:6])[0] if six else struct.unpack("!H", packet[2:4])[0]
        packet = packet[:length]
        status = [struct.unpack("=I", data[:4])[0] for level, kind, data in ancillary if (level, kind) == (SOL_PACKET, PACKET_AUXDATA)]
        header = 40 if six else 20
        if status and status[0] & CSUM_NOT_READY and packet[6 if six else 9] == 17:
            packet = packet[: header + 6] + b"\0\0" + packet[header + 8 :]
        return packet


class Wire:
    """A data plane that is told its SAs in lines and gets its packets from the network."""

    makes_dummies = False

    def __init__(self, program, client, wire):
        self.lines = Lines(program)
        self.client, self.wire = Link(client), Link(wire)
        self.spi = {}

    def install(self, name, direction, spec):
        self.spi[name] = struct.pack("!L", spec["spi"])
        self.lines.must(record_line(name, direction, spec))

    def start(self):
        self.lines.must("start")

    def seal(self, name, inner):
        self.client.send(inner)
        spi = self.spi[name]
        outer = self.wire.receive(lambda packet: spi_of(packet) == spi, LIMIT)
        return outer, None if outer else "nothing came out on the wire"

    def open(self, name, outer, refusal=False):
        self.wire.send(outer)
        inner = self.client.receive(is_inner, PATIENCE if refusal else LIMIT)
        return inner, None if inner else "nothing came out at the client"

    def forwarded(self, inner):
        """The gateway's kernel routes the packet, and takes one hop."""
        if inner[0] >> 4 == 6:
            return inner[:7] + bytes([inner[7] - 1]) + inner[8:]
        packet = IP(inner)
        packet.ttl -= 1
        del packet.chksum
        return bytes(packet)

    def close(self):
        return self.lines.close()


def spi_of(packet):
    """The SPI of an ESP packet, raw or in UDP; None for others."""
    six = packet[0] >> 4 == 6
    at, protocol = (40, packet[6]) if six else (20, packet[9])
    if protocol == 17:
        at += 8
    elif protocol != 50:
        return None
    return packet[at : at + 4]


def is_inner(packet):
    """Whether the packet comes from one of the protected networks, or a foreign one."""
    if packet[0] >> 4 == 6:
        return packet[8:10] == b"\xfd\x00"
    return packet[12] in (10, 172)
