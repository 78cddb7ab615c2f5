# A model of the same sizes and steps as NetShare's, of random numbers: only the cost counts.
import sys
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(1)
iterations, batch = int(sys.argv[1]), int(sys.argv[2])
pairs, words, length, latent, units = 64, 3, 2, 5, 100
attribute_heads = [2] * pairs + [10] * words + [1]
record_heads = [1, 1, 1, 1, 2, 2]
attributes, record = sum(attribute_heads), sum(record_heads)

def activation(size):
    return nn.Softmax(dim=-1) if size == 2 else nn.Tanh() if size == 10 else nn.Sigmoid()

def critic(inputs):
    layers = []
    for _ in range(4):
        layers += [nn.Linear(inputs, 512), nn.ReLU()]
        inputs = 512
    return nn.Sequential(*layers, nn.Linear(512, 1))

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], latent
        for _ in range(4):
            layers += [nn.Linear(inputs, 512), nn.ReLU(), nn.BatchNorm1d(512, momentum=0.9)]
            inputs = 512
        self.body = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(512, n), activation(n)) for n in attribute_heads)
        self.lstm = nn.LSTM(attributes + latent, units, 1, batch_first=True)
        self.outs = nn.ModuleList(nn.Sequential(nn.Linear(units, n), activation(n)) for n in record_heads)

    def forward(self, noise, steps, start):
        hidden = self.body(noise)
        made = [head(hidden) for head in self.heads]
        hard = [
            nn.functional.one_hot(m.argmax(1), m.shape[1]) if m.shape[1] == 2 else m for m in made
        ]
        hard = torch.cat(hard, 1).detach()
        inputs = torch.cat((hard.unsqueeze(1).expand(-1, steps.shape[1], -1), steps), 2)
        states, _ = self.lstm(inputs, start)
        return torch.cat(made, 1), torch.cat([out(states) for out in self.outs], 2)

generator = Generator()
whole, part = critic(length * record + attributes), critic(attributes)
adam = lambda net: torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.5, 0.999))
optimizers = [adam(generator), adam(whole), adam(part)]

def penalty(net, real, fake):
    share = torch.ones(batch, 1)
    mixed = (real + share * (fake - real)).requires_grad_(True)
    scores = net(mixed)
    (slope,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True, retain_graph=True)
    return ((slope.square().sum(1) + 1e-8).sqrt() - 1).square().mean()

for _ in range(iterations):
    real_a, real_f = torch.rand(batch, attributes), torch.rand(batch, length * record)
    noise, steps = torch.randn(batch, latent), torch.randn(batch, length, latent)
    for _ in range(5):
        start = (torch.randn(1, batch, units), torch.randn(1, batch, units))
        fake_a, fake_f = generator(noise, steps, start)
        real = torch.cat((real_f, real_a), 1)
        fake = torch.cat((fake_f.flatten(1), fake_a), 1)
        for net, optimizer, r, f in ((whole, optimizers[1], real, fake), (part, optimizers[2], real_a, fake_a)):
            loss = net(f).mean() - net(r).mean() + 10 * penalty(net, r, f)
            optimizer.zero_grad(set_to_none=False)
            loss.backward(retain_graph=True)
            optimizer.step()
    loss = -whole(fake).mean() - part(fake_a).mean()
    optimizers[0].zero_grad(set_to_none=False)
    loss.backward()
    optimizers[0].step()
print(float(loss))
