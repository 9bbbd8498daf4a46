#!/usr/bin/env python3
"""Makes ike_vectors.txt: whole IKE_SA_INIT and IKE_AUTH exchanges with a pre-shared key, computed
from RFC 7296 (2.13 to 2.18, 3.1 to 3.14), RFC 5282, RFC 7634 and RFC 7383 with Python's
`cryptography` package and hmac module. No code of Postern has a part in it.

Usage: generate_ike.py > ike_vectors.txt
       generate_ike.py --capture DIR     writes DIR/ike.pcap and a Wireshark profile
                                         (ikev2_decryption_table) that decrypts it

Lines are `suite label hex`.
"""

import hashlib
import hmac
import os
import struct
import sys

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

PSK = b"a secret for vectors"
SPI_I, SPI_R = bytes.fromhex("a1b2c3d4e5f60718"), bytes.fromhex("0918273645546372")
HASHES = {5: hashlib.sha256, 6: hashlib.sha384, 7: hashlib.sha512}

# name: (ENCR, key bits attribute or None, INTEG or None, PRF, KE group)
SUITES = {
    "aes256gcm16-prfsha384-ecp384": (20, 256, None, 6, 20),
    "aes128gcm16-prfsha256-ecp256": (20, 128, None, 5, 19),
    "chacha20poly1305-prfsha256-x25519": (28, None, None, 5, 31),
    "aes256-sha512-prfsha512-x25519": (12, 256, 14, 7, 31),
    "aes128-sha256-prfsha256-ecp256": (12, 128, 12, 5, 19),
}
MACS = {12: (hashlib.sha256, 32, 16), 13: (hashlib.sha384, 48, 24), 14: (hashlib.sha512, 64, 32)}
NAMES = {
    (20, 256): "AES-GCM-256 with 16 octet ICV [RFC5282]",
    (20, 128): "AES-GCM-128 with 16 octet ICV [RFC5282]",
    (12, 256): "AES-CBC-256 [RFC3602]",
    (12, 128): "AES-CBC-128 [RFC3602]",
    None: "NONE [RFC4306]",
    12: "HMAC_SHA2_256_128 [RFC4868]",
    14: "HMAC_SHA2_512_256 [RFC4868]",
}


def octets(label, length):
    """Fixed octets that look random."""
    out, block = b"", b""
    while len(out) < length:
        block = hashlib.sha256(block + label.encode()).digest()
        out += block
    return out[:length]


def prf(kind, key, data):
    return hmac.new(key, data, HASHES[kind]).digest()


def prf_plus(kind, key, seed, length):
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = prf(kind, key, block + seed + bytes([counter]))
        out += block
        counter += 1
    return out[:length]


def key_exchange(group, label):
    """Our public value, the peer's, and what both compute."""
    if group == 31:
        i = x25519.X25519PrivateKey.from_private_bytes(octets(label + " i", 32))
        r = x25519.X25519PrivateKey.from_private_bytes(octets(label + " r", 32))
        raw = lambda key: key.public_key().public_bytes_raw()
        return raw(i), raw(r), i.exchange(r.public_key())
    curve = {19: ec.SECP256R1(), 20: ec.SECP384R1()}[group]
    size = curve.key_size // 8

    def derive(end):
        return ec.derive_private_key(int.from_bytes(octets(label + end, size - 1), "big"), curve)

    def raw(key):
        numbers = key.public_key().public_numbers()
        return numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")

    i, r = derive(" i"), derive(" r")
    return raw(i), raw(r), i.exchange(ec.ECDH(), r.public_key())


def payloads(items):
    """items: (type, body). The type of the first and the chain."""
    out = b""
    for at, (_, body) in enumerate(items):
        following = items[at + 1][0] if at + 1 < len(items) else 0
        out += struct.pack("!BBH", following, 0, len(body) + 4) + body
    return (items[0][0] if items else 0), out


def header(spi_r, first, exchange, flags, message_id, length):
    return SPI_I + spi_r + struct.pack("!BBBBII", first, 0x20, exchange, flags, message_id, length)


def clear(spi_r, exchange, flags, message_id, items):
    first, body = payloads(items)
    return header(spi_r, first, exchange, flags, message_id, 28 + len(body)) + body


def sa(suite, protocol, spi, with_ke, esn):
    encr, bits, integ, prf_id, group = suite
    attribute = struct.pack("!HH", 0x800E, bits) if bits else b""
    transforms = [(1, encr, attribute)]
    if integ:
        transforms.append((3, integ, b""))
    if protocol == 1:
        transforms.append((2, prf_id, b""))
    if with_ke:
        transforms.append((4, group, b""))
    if esn is not None:
        transforms.append((5, esn, b""))
    body = b""
    for at, (kind, ident, attributes) in enumerate(transforms):
        last = at + 1 == len(transforms)
        length = 8 + len(attributes)
        body += struct.pack("!BBHBBH", 0 if last else 3, 0, length, kind, 0, ident) + attributes
    length = 8 + len(spi) + len(body)
    return struct.pack("!BBHBBBB", 0, 0, length, 1, protocol, len(spi), len(transforms)) + spi + body


class Direction:
    """Seals for one side; AEAD IVs count from 0, CBC IVs come from octets()."""

    def __init__(self, suite, encryption, integrity, label):
        self.suite, self.encryption, self.integrity = suite, encryption, integrity
        self.label, self.count = label, 0

    def sizes(self):
        if self.suite[2] is None:
            return 8, 16
        return 16, MACS[self.suite[2]][2]

    def seal(self, prefix, plain):
        """prefix(length of IV, ciphertext and ICV) gives what comes before the IV."""
        iv_len, icv_len = self.sizes()
        block = 16 if iv_len == 16 else 1
        padding = -(len(plain) + 1) % block
        plain = plain + bytes(padding) + bytes([padding])
        associated = prefix(iv_len + len(plain) + icv_len)
        if self.suite[2] is None:
            iv = struct.pack("!Q", self.count)
            key, salt = self.encryption[:-4], self.encryption[-4:]
            aead = ChaCha20Poly1305(key) if self.suite[0] == 28 else AESGCM(key)
            out = associated + iv + aead.encrypt(salt + iv, plain, associated)
        else:
            iv = octets(self.label + str(self.count), 16)
            encryptor = Cipher(algorithms.AES(self.encryption), modes.CBC(iv)).encryptor()
            out = associated + iv + encryptor.update(plain) + encryptor.finalize()
            digest, _, icv = MACS[self.suite[2]]
            out += hmac.new(self.integrity, out, digest).digest()[:icv]
        self.count += 1
        return out

    def message(self, exchange, flags, message_id, items):
        first, inner = payloads(items)

        def prefix(length):
            length += 4
            head = header(SPI_R, 46, exchange, flags, message_id, 28 + length)
            return head + struct.pack("!BBH", first, 0, length)

        return self.seal(prefix, inner)

    def fragments(self, exchange, flags, message_id, items, room):
        first, inner = payloads(items)
        parts = [inner[at:at + room] for at in range(0, len(inner), room)]
        out = []
        for number, part in enumerate(parts, 1):

            def prefix(length, number=number):
                length += 8
                head = header(SPI_R, 53, exchange, flags, message_id, 28 + length)
                head += struct.pack("!BBH", first if number == 1 else 0, 0, length)
                return head + struct.pack("!HH", number, len(parts))

            out.append(self.seal(prefix, part))
        return out


def exchange(name, suite):
    encr, bits, integ, prf_id, group = suite
    out = {}
    ke_i, ke_r, shared = key_exchange(group, name)
    nonce_i, nonce_r = octets(name + " Ni", 32), octets(name + " Nr", 48)
    pub = lambda data: struct.pack("!HH", group, 0) + data
    request = clear(bytes(8), 34, 0x08, 0, [
        (33, sa(suite, 1, b"", True, None)), (34, pub(ke_i)), (40, nonce_i),
        (41, struct.pack("!BBH", 0, 0, 16430))])
    response = clear(SPI_R, 34, 0x20, 0, [
        (33, sa(suite, 1, b"", True, None)), (34, pub(ke_r)), (40, nonce_r),
        (41, struct.pack("!BBH", 0, 0, 16430))])
    out.update(nonce_i=nonce_i, nonce_r=nonce_r, shared=shared,
               init_request=request, init_response=response)

    def schedule(seed, ni, nr, spi_i, spi_r):
        encryption = (bits // 8 if bits else 32) + (0 if integ else 4)
        mac = MACS[integ][1] if integ else 0
        size = HASHES[prf_id]().digest_size
        lengths = [size, mac, mac, encryption, encryption, size, size]
        stream = prf_plus(prf_id, seed, ni + nr + spi_i + spi_r, sum(lengths))
        keys = {}
        for label, length in zip(("d", "ai", "ar", "ei", "er", "pi", "pr"), lengths):
            keys[label], stream = stream[:length], stream[length:]
        return keys

    keys = schedule(prf(prf_id, nonce_i + nonce_r, shared), nonce_i, nonce_r, SPI_I, SPI_R)
    out.update({"sk_" + label: value for label, value in keys.items()})
    initiator = Direction(suite, keys["ei"], keys["ai"], name + " iv i")
    responder = Direction(suite, keys["er"], keys["ar"], name + " iv r")

    id_i = b"\x02\0\0\0a.example"
    id_r = b"\x02\0\0\0b.example"
    padded = prf(prf_id, PSK, b"Key Pad for IKEv2")
    auth_i = prf(prf_id, padded, request + nonce_r + prf(prf_id, keys["pi"], id_i))
    auth_r = prf(prf_id, padded, response + nonce_i + prf(prf_id, keys["pr"], id_r))
    out.update(psk=PSK, id_i=id_i, id_r=id_r, auth_i=auth_i, auth_r=auth_r)
    range4 = lambda start, end: struct.pack("!BBHHH", 7, 0, 16, 0, 65535) + bytes(start) + bytes(end)
    ts = lambda start, end: b"\x01\0\0\0" + range4(start, end)
    ts_i, ts_r = ts((10, 1, 0, 0), (10, 1, 255, 255)), ts((10, 2, 0, 0), (10, 2, 255, 255))
    spi_in, spi_out = bytes.fromhex("c1c2c3c4"), bytes.fromhex("d1d2d3d4")
    out["auth_request"] = initiator.message(35, 0x08, 1, [
        (35, id_i), (39, b"\x02\0\0\0" + auth_i), (33, sa(suite, 3, spi_in, False, 1)),
        (44, ts_i), (45, ts_r)])
    out["auth_response"] = responder.message(35, 0x20, 1, [
        (36, id_r), (39, b"\x02\0\0\0" + auth_r), (33, sa(suite, 3, spi_out, False, 1)),
        (44, ts_i), (45, ts_r)])
    vendor = [(43, octets("vendor", 700))]
    for number, fragment in enumerate(initiator.fragments(37, 0x08, 2, vendor, 256), 1):
        out["fragment_%d" % number] = fragment

    per_child = (bits // 8 if bits else 32) + (MACS[integ][1] if integ else 4)
    out["child_keymat"] = prf_plus(prf_id, keys["d"], nonce_i + nonce_r, 2 * per_child)
    ni, nr = octets("rekey Ni", 32), octets("rekey Nr", 32)
    _, _, fresh = key_exchange(group, "rekey")
    out.update(rekey_nonce_i=ni, rekey_nonce_r=nr, rekey_shared=fresh)
    out["child_keymat_pfs"] = prf_plus(prf_id, keys["d"], fresh + ni + nr, 2 * per_child)
    new_i, new_r = octets("spi i", 8), octets("spi r", 8)
    out.update(rekey_spi_i=new_i, rekey_spi_r=new_r)
    rekeyed = schedule(prf(prf_id, keys["d"], fresh + ni + nr), ni, nr, new_i, new_r)
    out.update({"rekey_sk_" + label: value for label, value in rekeyed.items()})
    return out


def capture(folder):
    """A capture of the suites that Wireshark decrypts, and its table of keys."""
    os.makedirs(folder, exist_ok=True)
    rows = []
    frames = []
    global SPI_I, SPI_R
    for at, (name, suite) in enumerate(SUITES.items()):
        if suite[0] == 28:
            continue
        SPI_I, SPI_R = bytes([0xA0 + at]) * 8, bytes([0xB0 + at]) * 8
        out = exchange(name, suite)
        order = ["init_request", "init_response", "auth_request", "auth_response"]
        for label in order + ["fragment_1", "fragment_2", "fragment_3"]:
            reply = label.endswith("response")
            ends = (b"\x0a\0\0\x01", b"\x0a\0\0\x02")
            ip_from, ip_to = reversed(ends) if reply else ends
            udp = struct.pack("!HHHH", 500, 500, 8 + len(out[label]), 0) + out[label]
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ip_from + ip_to
            frames.append(ip + udp)
        cipher, mac = NAMES[(suite[0], suite[1])], NAMES[suite[2]]
        hexes = [SPI_I.hex(), SPI_R.hex(), out["sk_ei"].hex(), out["sk_er"].hex()]
        rows.append("%s,%s,%s,%s,\"%s\",%s,%s,\"%s\"" % (
            *hexes, cipher, out["sk_ai"].hex(), out["sk_ar"].hex(), mac))
    with open(os.path.join(folder, "ike.pcap"), "wb") as pcap:
        pcap.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for at, frame in enumerate(frames):
            pcap.write(struct.pack("!IIII", at, 0, len(frame), len(frame)) + frame)
    with open(os.path.join(folder, "ikev2_decryption_table"), "w") as table:
        table.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--capture"]:
        capture(sys.argv[2])
    else:
        for suite_name, transforms in SUITES.items():
            for label, value in exchange(suite_name, transforms).items():
                print(suite_name, label, value.hex() or "-")
