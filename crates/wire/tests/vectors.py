#!/usr/bin/env python3
"""Writes vectors.txt from a second implementation of the datagram format: hashlib, hmac, and ChaCha20 as in RFC 8439.

Columns: key dir stream unix_ns kind body total_len datagram; bytes as hex, '-' for none.
"""
import hashlib, hmac, struct

EPOCH = 600 * 10**9


def hkdf(psk, info):
    prk = hmac.new(bytes(32), psk, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def block(key, counter, nonce):
    s = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    w = s[:]

    def quarter(a, b, c, d):
        for x, y, z, r in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            w[x] = (w[x] + w[y]) & 0xFFFFFFFF
            t = w[z] ^ w[x]
            w[z] = ((t << r) | (t >> (32 - r))) & 0xFFFFFFFF

    for _ in range(10):
        for q in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(*q)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(w, s)))


def chacha(key, nonce, data):
    stream = b"".join(block(key, i, nonce) for i in range(len(data) // 64 + 1))
    return bytes(a ^ b for a, b in zip(data, stream))


def seal(psk, way, stream, now, kind, body, total):
    epoch, elapsed = divmod(now, EPOCH)
    counter = elapsed * 2**32 // EPOCH
    d, e = bytes([way]), struct.pack(">Q", epoch)
    text = b""
    if total >= 28:
        text = struct.pack(">BBH", kind, 1, len(body)) + body
        text += bytes(total - 24 - len(text))
    else:
        text = bytes(total - 24)
    nonce = d + b"\0" + struct.pack(">IHI", epoch & 0xFFFFFFFF, stream, counter)
    text = chacha(hkdf(psk, b"chaff v1" + d + e + b"body"), nonce, text)
    header = struct.pack(">HHI", epoch & 0xFFFF, stream, counter)
    tag = hashlib.blake2s(header + text, key=hkdf(psk, b"chaff v1" + d + e + b"tag"), digest_size=16).digest()
    header = chacha(hkdf(psk, b"chaff v1" + d + b"header"), tag[:12], header)
    return header + text + tag


def main():
    first, second = bytes(range(32)), hashlib.sha256(b"chaff test key").digest()
    start = 1_800_000_000 * 10**9
    cases = [
        (first, 0, 0, start, 0, b"", 24),
        (first, 0, 7, start, 0, b"", 27),
        (first, 0, 7, start, 0, b"", 28),
        (first, 1, 7, start, 0, b"", 28),
        (first, 0, 7, start + 1_234_567_890, 1, b"schedule", 60),
        (second, 1, 65535, start + EPOCH - 1, 2, bytes(range(100)), 128),
        (second, 0, 258, 65536 * EPOCH + 10**9, 0, b"", 300),
        (second, 0, 258, 0, 2, b"\xff", 29),
    ]
    for psk, way, stream, now, kind, body, total in cases:
        wire = seal(psk, way, stream, now, kind, body, total)
        print(psk.hex(), "out" if way == 0 else "in", stream, now, kind, body.hex() or "-", total, wire.hex())


main()
