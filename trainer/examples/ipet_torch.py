#!/usr/bin/env python3
"""iPET's published training with PyTorch, as a yardstick for `trainer cover --profile ipet`: the same networks, batches, passes and
windows, one thread, 32-bit floats. Prints CPU seconds (reading and imports left out), one JSON line.

usage: ipet_torch.py WINDOWS [--stages 5] [--attacker-epochs 15] [--cap 160] [--seed 1]

WINDOWS is the folder of `trainer windows`. With at most 16 passes nothing is stopped early, so both programs do the same work:

    trainer windows --pcap captures/ --devices devices.csv --output windows/
    /usr/bin/time -f %U+%S trainer cover --profile ipet --pcap captures/ --devices devices.csv --max-windows 160 \\
        --attacker-epochs 15 --seed 1 --output models/
    python3 ipet_torch.py windows/
"""
import argparse
import csv
import json
import resource

import numpy as np
import torch
from torch import nn


class Attacker(nn.Module):
    """Two bidirectional LSTMs of 8, the silence, a dense layer of 128."""

    def __init__(self, labels):
        super().__init__()
        self.first = nn.LSTM(4, 8, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(17, 128)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(128, labels)

    def forward(self, x, silence):
        y, _ = self.first(x)
        _, (h, _) = self.second(y)
        y = torch.cat([h[0], h[1], silence[:, None]], 1)
        return self.out(self.drop(torch.tanh(self.hidden(y))))

    def penalty(self):
        inputs = (self.first.weight_ih_l0, self.first.weight_ih_l0_reverse)
        return 0.01 * sum((w * w).sum() for w in inputs)


def windows(folder, cap, rng):
    """Windows, silences, classes to learn from and held out: `trainer`'s split by session, the same caps."""
    x = np.load(f"{folder}/windows.npy").astype(np.float32)
    silence = np.load(f"{folder}/silence.npy").astype(np.float32)
    with open(f"{folder}/windows.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    label = np.array([r["label"] for r in rows])
    session = np.array([f"{r['label']}__{r['device']}__{r['session']}.csv" for r in rows])
    train, test, labels = [], [], []
    for name in sorted(set(label)):
        own = np.flatnonzero(label == name)
        sessions = sorted(set(session[own]))
        if len(sessions) == 1:
            cut = len(own) * 6 // 10
            a, b = own[:cut], own[cut:]
        else:
            if len(sessions) <= 6:
                held = sessions[-1:]
            else:
                held = [s for i, s in enumerate(sessions) if i % 10 in (2, 5, 8)]
            k = np.isin(session[own], held)
            a, b = own[~k], own[k]
        if len(a) < 4 or len(b) < 4:
            continue
        train += [(i, len(labels)) for i in rng.permutation(a)[:cap]]
        test += [(i, len(labels)) for i in rng.permutation(b)[:cap]]
        labels.append(name)
    return x, silence, np.array(train), np.array(test), labels


def fit(net, x, silence, y, epochs, batch):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, eps=1e-7)
    net.train()
    for _ in range(epochs):
        for k in torch.randperm(len(y)).split(batch):
            loss = nn.functional.cross_entropy(net(x[k], silence[k]), y[k]) + net.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def balanced(net, x, silence, y):
    net.eval()
    with torch.no_grad():
        found = net(x, silence).argmax(1)
    return float(np.mean([(found[y == c] == c).float().mean().item() for c in y.unique()]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("windows")
    ap.add_argument("--stages", type=int, default=5)
    ap.add_argument("--attacker-epochs", type=int, default=15)
    ap.add_argument("--cap", type=int, default=160)
    ap.add_argument("--seed", type=int, default=1)
    o = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    x, silence, train, test, labels = windows(o.windows, o.cap, np.random.default_rng(o.seed))
    tensors = lambda part: (torch.from_numpy(x[part[:, 0]]), torch.from_numpy(silence[part[:, 0]]), torch.from_numpy(part[:, 1]))
    # 15 % of the windows to learn from only decide when to stop; here they are computed, not learnt from.
    held = np.concatenate([np.flatnonzero(train[:, 1] == c)[: int((train[:, 1] == c).sum() * 0.15)] for c in range(len(labels))])
    learn = np.setdiff1d(np.arange(len(train)), held)
    x_train, s_train, y_train = tensors(train[learn])
    x_held, s_held, y_held = tensors(train[held])
    x_test, s_test, y_test = tensors(test)
    limits = torch.tensor([4.0, 100.0, 4.0, 100.0])

    begun = resource.getrusage(resource.RUSAGE_SELF)

    def attacker(x_train, x_held):
        net = Attacker(len(labels))
        for _ in range(o.attacker_epochs):
            fit(net, x_train, s_train, y_train, 1, 128)
            balanced(net, x_held, s_held, y_held)
        return net

    first = attacker(x_train, x_held)
    undefended = balanced(first, x_test, s_test, y_test)
    judge = Attacker(len(labels))
    judge.load_state_dict(first.state_dict())

    def covered(x, y, generators):
        with torch.no_grad():
            out = x.clone()
            for i, c in enumerate(y):
                level = torch.sigmoid(generators[c](torch.randn(20))).view(40, 4)
                out[i] += torch.round(level * limits)
        return out

    for _ in range(o.stages):
        generators = []
        judge.eval()
        for c in range(len(labels)):
            g = nn.Linear(20, 160)
            nn.init.xavier_uniform_(g.weight)
            nn.init.zeros_(g.bias)
            optimizer = torch.optim.NAdam(g.parameters(), lr=1e-3, eps=1e-7)
            own = torch.nonzero(y_train == c).flatten()
            for _ in range(3):
                for k in own[torch.randperm(len(own))].split(32):
                    cover = torch.sigmoid(g(torch.randn(len(k), 20))).view(-1, 40, 4) * limits
                    loss = -nn.functional.cross_entropy(judge(x_train[k] + cover, s_train[k]), y_train[k])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            generators.append(g)
        fit(judge, covered(x_train, y_train, generators), s_train, y_train, 2, 32)
    x_covered = covered(x_test, y_test, generators)
    again = attacker(covered(x_train, y_train, generators), covered(x_held, y_held, generators))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "cpu_s": round(used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime, 2),
                "labels": len(labels),
                "windows": [len(learn), len(held), len(test)],
                "undefended": round(undefended, 3),
                "static": round(balanced(first, x_covered, s_test, y_test), 3),
                "trained_along": round(balanced(judge, x_covered, s_test, y_test), 3),
                "retrained": round(balanced(again, x_covered, s_test, y_test), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
