"""iPET's windows from scratch, for comparison with `trainer windows --profile ipet`.

usage: windows_reference.py DEVICES_CSV FOLDER CAPTURE...

Rules (published program): a packet counts when exactly one address starts with "192", the protocol is TCP or UDP and the
transport payload is not empty; times are seconds since the file's first frame, re-based to the first counted packet; a window
starts with a packet, the first packet at or after start + 4 s starts the next one; slot = (t - start) // 0.1; columns are
packets in, bytes in, packets out, bytes out; silence = time since the packet before the window, 0 for the first.
FOLDER holds windows.npy and silence.npy to compare with. Prints "equal N" or the first difference.
"""
import csv
import os
import struct
import sys

import numpy as np


def frames(path):
    data = open(path, "rb").read()
    magic = struct.unpack("<I", data[:4])[0]
    order = "<" if magic in (0xA1B2C3D4, 0xA1B23C4D) else ">"
    nanos = struct.unpack(order + "I", data[:4])[0] == 0xA1B23C4D
    at = 24
    while at + 16 <= len(data):
        s, f, kept, _ = struct.unpack_from(order + "IIII", data, at)
        at += 16
        yield s * 10**9 + f * (1 if nanos else 1000), data[at:at + kept]
        at += kept


def packet(frame):
    """(source MAC, destination MAC, source, destination, payload) of TCP and UDP over IPv4, else None."""
    kind, at = int.from_bytes(frame[12:14], "big"), 14
    if kind == 0x8100:
        kind, at = int.from_bytes(frame[16:18], "big"), 18
    if kind != 0x0800 or len(frame) < at + 20:
        return None
    if int.from_bytes(frame[at + 6:at + 8], "big") & 0x1FFF:
        return None
    head, total, protocol = (frame[at] & 15) * 4, int.from_bytes(frame[at + 2:at + 4], "big"), frame[at + 9]
    up = at + head
    if protocol == 6 and len(frame) > up + 12:
        payload = total - head - (frame[up + 12] >> 4) * 4
    elif protocol == 17:
        payload = int.from_bytes(frame[up + 4:up + 6], "big") - 8
    else:
        return None
    dotted = [".".join(map(str, frame[at + o:at + o + 4])) for o in (12, 16)]
    return frame[6:12], frame[0:6], dotted[0], dotted[1], payload


def main():
    devices, folder, captures = sys.argv[1], sys.argv[2], sorted(sys.argv[3:])
    macs = {r["device"]: bytes.fromhex(r["mac"].replace(":", "")) for r in csv.DictReader(open(devices))}
    tensors, silences = [], []
    for path in captures:
        mac = macs[os.path.basename(os.path.dirname(path))]
        origin, kept = None, []
        for t, frame in frames(path):
            origin = t if origin is None else origin
            p = packet(frame)
            if not p or p[2].startswith("192") == p[3].startswith("192") or p[4] == 0:
                continue
            out = p[2].startswith("192")
            if (p[0] if out else p[1]) == mac:
                kept.append((float("%d.%09d" % divmod(t - origin, 10**9)), 1 if out else -1, p[4]))
        if not kept:
            continue
        t = np.array([k[0] for k in kept])
        t = t - t[0]
        i = 0
        while i < len(t):
            j = i
            while j < len(t) and t[j] < t[i] + 4.0:
                j += 1
            m = np.zeros((int(4.0 / 0.1), 4))
            for k in range(i, j):
                slot, column = int((t[k] - t[i]) // np.float64(0.1)), 2 if kept[k][1] == 1 else 0
                m[slot, column] += 1
                m[slot, column + 1] += kept[k][2]
            tensors.append(m)
            silences.append(t[i] - t[i - 1] if i else 0.0)
            i = j
    tensors, silences = np.array(tensors), np.array(silences)
    theirs, quiet = (np.load(os.path.join(folder, n)) for n in ("windows.npy", "silence.npy"))
    if theirs.shape != tensors.shape:
        sys.exit(f"shapes {theirs.shape} and {tensors.shape}")
    if not np.array_equal(theirs, tensors):
        sys.exit(f"first different window {np.argwhere((theirs != tensors).any((1, 2)))[0]}")
    if not np.array_equal(quiet, silences):
        sys.exit(f"first different silence {np.argwhere(quiet != silences)[0]}")
    print("equal", len(tensors))


main()
