"""ESP as scapy does it: the opinion that Postern's packets are held against.

scapy's SecurityAssociation does all of the work. Two things stand here because
they are not in it:

* scapy before 2.6 leaves the high half of an extended sequence number out of a
  separate MAC (RFC 4303 section 2.2.1). `_esn_mac` puts it in, and only where
  the installed version does not do so itself.
* what RFC 4303, 3948 and 6040 say about the bytes around the ciphertext.
"""

import os
import random
import struct
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("SCAPY_USE_PCAPDNET", "no")

from scapy.layers import ipsec  # noqa: E402
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6, in6_chksum  # noqa: E402
from scapy.layers.ipsec import (  # noqa: E402
    AUTH_ALGOS,
    ESP,
    AuthAlgo,
    IPSecIntegrityError,
    SecurityAssociation,
)
from scapy.packet import Raw  # noqa: E402

# name as Postern writes it -> (scapy cipher, octets of key and salt, scapy MAC, octets of its key)
SUITES = {
    "aes128gcm16": ("AES-GCM", 20, None, 0),
    "aes256gcm16": ("AES-GCM", 36, None, 0),
    "chacha20poly1305": ("CHACHA20-POLY1305", 36, None, 0),
}
for _bits in (128, 192, 256):
    for _hash, _name in ((256, "SHA2-256-128"), (384, "SHA2-384-192"), (512, "SHA2-512-256")):
        SUITES["aes%d-sha%d" % (_bits, _hash)] = ("AES-CBC", _bits // 8, _name, _hash // 8)

NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3


class Refused(Exception):
    """A packet that no conforming sender makes."""


class _EsnMac:
    """A MAC whose input ends with the high half of the sequence number."""

    def __init__(self, mac, high):
        self._mac, self._high = mac, high

    def update(self, data):
        self._mac.update(data)

    def finalize(self):
        self._mac.update(struct.pack("!L", self._high))
        return self._mac.finalize()


class _EsnAuth(AuthAlgo):
    """An integrity algorithm of scapy, with the sequence number's high half."""

    def __init__(self, plain, sa):
        super().__init__(plain.name, plain.mac, plain.digestmod, plain.icv_size, plain.key_size)
        self._sa = sa

    def new_mac(self, key):
        return _EsnMac(super().new_mac(key), self._sa.esn)


def _scapy_has_esn_mac():
    plain = AUTH_ALGOS["SHA2-256-128"]
    signed = [
        bytes(plain.sign(ESP(spi=1, seq=1, data=b"x" * 16), b"k" * 32, esn_en=True, esn=high))
        for high in (0, 1)
    ]
    return signed[0] != signed[1]


try:
    ESN_MAC_IS_OURS = not _scapy_has_esn_mac()
except TypeError:
    ESN_MAC_IS_OURS = True


class Association:
    """One direction of an SA pair, in scapy."""

    def __init__(self, spec):
        """`spec` has suite, key, mac, spi, esn, src, dst, sport, dport, udp, sequence."""
        self.spec = spec
        cipher, _, mac, _ = SUITES[spec["suite"]]
        header = self._ip(spec["src"], spec["dst"])
        self.sa = SecurityAssociation(
            ESP,
            spi=spec["spi"],
            crypt_algo=cipher,
            crypt_key=spec["key"],
            auth_algo=mac,
            auth_key=spec["mac"] or None,
            tunnel_header=header,
            nat_t_header=UDP(sport=spec["sport"], dport=spec["dport"]) if spec["udp"] else None,
            esn_en=spec["esn"],
        )
        if mac and spec["esn"] and ESN_MAC_IS_OURS:
            self.sa.auth_algo = _EsnAuth(self.sa.auth_algo, self.sa)
        self.sequence = spec["sequence"]
        self.aead = mac is None
        self.ivs = set()

    @staticmethod
    def _ip(src, dst):
        return IPv6(src=src, dst=dst, hlim=64) if ":" in src else IP(src=src, dst=dst, ttl=64)

    def _at(self, sequence):
        self.sa.seq_num = sequence & 0xFFFFFFFF
        self.sa.esn = sequence >> 32 if self.spec["esn"] else 0

    def seal(self, inner, ecn=NOT_ECT, dscp=0):
        """The outer packet that carries `inner` (bytes), with the next sequence number."""
        self._at(self.sequence)
        self.sequence += 1
        header = self.sa.tunnel_header
        if header.version == 4:
            header.tos = dscp << 2 | ecn
            header.id = random.getrandbits(16)
        else:
            header.tc = dscp << 2 | ecn
        packet = IPv6(inner) if inner[0] >> 4 == 6 else IP(inner)
        outer = bytes(self.sa.encrypt(packet))
        if self.spec["udp"]:
            # Over IPv4 scapy writes the length of an empty datagram, over IPv6 no checksum:
            # every other packet keeps it that way (RFC 6935 allows it for tunnels).
            at = 40 if header.version == 6 else 20
            outer = outer[: at + 4] + struct.pack("!H", len(outer) - at) + outer[at + 6 :]
            if header.version == 6 and self.sequence % 2:
                outer = outer[: at + 6] + struct.pack("!H", in6_chksum(17, IPv6(outer[:40]), outer[40:]) or 0xFFFF) + outer[at + 8 :]
        return outer

    def open(self, outer, inner=None, dummy=False):
        """The inner packet in `outer` (bytes), after every rule a sender has to keep.

        `inner`, where known, is what the packet was made from: the outer header's
        DSCP, ECN and DF follow from it. A `dummy` packet has no inner one: None.
        """
        packet = self._outer(outer, inner)
        self._at(self.sequence)
        esp = packet[ESP]
        if esp.spi != self.spec["spi"]:
            raise Refused("SPI %08x, expected %08x" % (esp.spi, self.spec["spi"]))
        if esp.seq != self.sequence & 0xFFFFFFFF:
            raise Refused("sequence number %d, expected %d" % (esp.seq, self.sequence))
        self._iv(bytes(esp.data))
        self._trailer(esp, (59,) if dummy else (4, 41))
        try:
            opened = self.sa.decrypt(packet)
        except IPSecIntegrityError as error:
            raise Refused("scapy refuses the ICV: %s" % error)
        self.sequence += 1
        return None if dummy else bytes(opened)

    def _outer(self, outer, inner):
        spec = self.spec
        version = 6 if ":" in spec["src"] else 4
        if outer[0] >> 4 != version:
            raise Refused("the outer header is IPv%d" % (outer[0] >> 4))
        packet = IPv6(outer) if version == 6 else IP(outer)
        if (packet.src, packet.dst) != (spec["src"], spec["dst"]):
            raise Refused("outer addresses %s to %s" % (packet.src, packet.dst))
        if version == 4:
            if packet.ihl != 5 or packet.len != len(outer):
                raise Refused("outer IPv4 header: ihl %d, length %d of %d octets" % (packet.ihl, packet.len, len(outer)))
            sound = IP(outer)
            del sound.chksum
            if IP(bytes(sound)).chksum != packet.chksum:
                raise Refused("outer IPv4 checksum is wrong")
            traffic_class = packet.tos
        else:
            if packet.plen != len(outer) - 40:
                raise Refused("outer IPv6 payload length %d of %d octets" % (packet.plen, len(outer) - 40))
            traffic_class = packet.tc
        if inner is not None:
            self._field_by_field(packet, inner, traffic_class)
        if spec["udp"]:
            udp = packet.getlayer(UDP)
            if udp is None or (udp.sport, udp.dport) != (spec["sport"], spec["dport"]):
                raise Refused("not UDP with the SA's ports")
            if udp.len != len(outer) - (40 if version == 6 else 20):
                raise Refused("UDP length %d" % udp.len)
            if udp.chksum:
                sound = packet.copy()
                del sound[UDP].chksum
                if packet.__class__(bytes(sound))[UDP].chksum != udp.chksum:
                    raise Refused("UDP checksum is neither zero nor right")
            if ESP not in packet:
                payload = bytes(udp.payload)
                udp.remove_payload()
                packet = packet / ESP(payload)
        elif (packet.proto if version == 4 else packet.nh) != 50:
            raise Refused("not IP protocol 50")
        return packet

    @staticmethod
    def _field_by_field(packet, inner, traffic_class):
        inner_class = struct.unpack("!H", inner[:2])[0] >> 4 & 0xFF if inner[0] >> 4 == 6 else inner[1]
        if traffic_class != inner_class:
            raise Refused("outer traffic class %02x, inner %02x" % (traffic_class, inner_class))
        if packet.version == 4:
            inner_df = inner[0] >> 4 == 6 or bool(inner[6] & 0x40)
            if bool(packet.flags & 2) != inner_df:
                raise Refused("outer DF is %s, inner %s" % (bool(packet.flags & 2), inner_df))

    def _iv(self, data):
        iv = data[: self.sa.crypt_algo.iv_size]
        if self.aead and struct.unpack("!Q", iv)[0] != self.sequence:
            raise Refused("the explicit IV is %s, not the sequence number %x" % (iv.hex(), self.sequence))
        if iv in self.ivs:
            raise Refused("the IV %s was used before" % iv.hex())
        self.ivs.add(iv)

    def _trailer(self, esp, next_headers):
        try:
            plain = self.sa.crypt_algo.decrypt(
                self.sa,
                esp,
                self.sa.crypt_key,
                self.sa.crypt_algo.icv_size or self.sa.auth_algo.icv_size,
                esn_en=self.spec["esn"],
                esn=self.sa.esn,
            )
        except (IPSecIntegrityError, ValueError, IndexError) as error:
            raise Refused("scapy cannot decrypt: %s" % error)
        octets = len(plain.data) + plain.padlen + 2
        unit = 4 if self.aead else 16
        if octets % unit or plain.padlen >= unit:
            raise Refused("padding of %d octets behind %d" % (plain.padlen, len(plain.data)))
        if self._padding(esp, plain) != bytes(range(1, plain.padlen + 1)):
            raise Refused("the padding is not 1, 2, 3 and so on")
        if plain.nh not in next_headers:
            raise Refused("next header %d, expected one of %s" % (plain.nh, next_headers))

    def _padding(self, esp, plain):
        """The padding, which scapy cuts off without a look: decrypted once more, as it stands."""
        algo = self.sa.crypt_algo
        icv = algo.icv_size or self.sa.auth_algo.icv_size
        data = bytes(esp.data)
        iv, body, tag = data[: algo.iv_size], data[algo.iv_size : len(data) - icv], data[len(data) - icv :]
        if self.aead:
            aad = struct.pack("!LLL", esp.spi, self.sa.esn, esp.seq) if self.spec["esn"] else struct.pack("!LL", esp.spi, esp.seq)
            clear = algo.cipher(self.sa.crypt_key).decrypt(self.sa.crypt_salt + iv, body + tag, aad)
        else:
            cipher = algo.new_cipher(self.sa.crypt_key, iv).decryptor()
            clear = cipher.update(body) + cipher.finalize()
        return clear[len(clear) - 2 - plain.padlen : len(clear) - 2]


def delivered(inner, outer_ecn):
    """What a receiver hands on of `inner`; None where it drops it (RFC 6040 section 4.2)."""
    six = inner[0] >> 4 == 6
    ecn = (inner[1] >> 4 if six else inner[1]) & 3
    if ecn == NOT_ECT:
        return None if outer_ecn == CE else inner
    new = ecn
    if ecn != CE:
        if outer_ecn == CE:
            new = CE
        elif outer_ecn == ECT1 and ecn == ECT0:
            new = ECT1
    if new == ecn:
        return inner
    if six:
        return inner[:1] + bytes([inner[1] & 0xCF | new << 4]) + inner[2:]
    packet = IP(inner)
    packet.tos = packet.tos & 0xFC | new
    del packet.chksum
    return bytes(packet)


def version():
    import scapy

    return getattr(scapy, "VERSION", "of unknown version")
