"""A small model and a plain training loop, for tests of everything that rides on one."""

import io

import torch
from torch import nn

from prunella import Cubic, Pruner


class Block(nn.Module):
    """A residual pair of linears, as a transformer's feed-forward part."""

    def __init__(self, width, hidden):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    """A table, two blocks and a head."""

    def __init__(self, width=8, hidden=12, blocks=2):
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.blocks = nn.ModuleList([Block(width, hidden) for _ in range(blocks)])
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        x = self.table(tokens).mean(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def net(seed=0, **sizes):
    torch.manual_seed(seed)
    return Net(**sizes)


def adamw(model, **options):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.01, **options)


def ramp(final=0.7, **options):
    """A cubic ramp over steps 10 to 30."""
    return Cubic(final, **{"begin": 9, "end": 31, "every": 5} | options)


def batch(step):
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, 20, (6, 5), generator=generator)
    return tokens, tokens.sum(1) % 3


def loss_of(model, step):
    tokens, labels = batch(step)
    return nn.functional.cross_entropy(model(tokens).float(), labels)


def train(model, optimizer, steps, each=lambda step: None):
    """Train for the steps of a range, calling ``each`` after every one."""
    model.train()
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        each(step)


def weights(model):
    """A copy of the model's state as it would be saved."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(ours, theirs):
    """Whether two dictionaries of tensors are equal bit for bit."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def through_a_file(state):
    """A state after saving and loading."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def pruned(criterion, schedule=None, *, model=None, make=adamw, **options):
    """A model, its optimizer and a pruner on them."""
    model = net() if model is None else model
    optimizer = make(model)
    pruner = Pruner(model, optimizer, criterion, schedule or ramp(), **options)
    return model, optimizer, pruner
