"""CPU seconds of whole programs, netml against `trainer features`: STATS of one capture, medians of 3 alternating rounds.

usage: python netml_bench.py TRAINER CAPTURE      (an interpreter that has netml; TRAINER is target/release/trainer)
"""
import os
import resource
import subprocess
import sys
import tempfile

NETML = """
import sys
from netml.pparser.parser import PCAP
pcap = PCAP(sys.argv[1], flow_ptks_thres=2, verbose=0, random_state=42)
pcap.pcap2flows()
pcap.flow2features("STATS", fft=False, header=False)
"""
# One run of ours is shorter than a tick of the clock.
RUNS = 20


def cpu(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


trainer, capture = sys.argv[1:3]
ours, theirs = [], []
with tempfile.TemporaryDirectory() as folder:
    table = os.path.join(folder, "stats.csv")
    features = [trainer, "features", capture, "--kind", "stats", "--profile", "netml", "--output", table]
    for _ in range(3):
        ours.append(sum(cpu(features) for _ in range(RUNS)) / RUNS)
        theirs.append(cpu([sys.executable, "-c", NETML, capture]))
ours, theirs = sorted(ours)[1], sorted(theirs)[1]
print(f"netml {theirs:.3f} s, trainer features {ours:.5f} s, ratio {theirs / ours:.0f}")
