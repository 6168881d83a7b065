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


class Experts(nn.Module):
    """Experts as Transformers 5 has them, one tensor for all of a layer's."""

    def __init__(self, width, hidden, number=3, is_transposed=False):
        super().__init__()
        self.is_transposed = is_transposed
        up, down = (number, 2 * hidden, width), (number, width, hidden)
        self.gate_up_proj = nn.Parameter(self.laid(torch.randn(up) / 3))
        self.down_proj = nn.Parameter(self.laid(torch.randn(down) / 3))

    def laid(self, stack):
        """[experts, out, in] as it is stored, or back."""
        return stack.mT.contiguous() if self.is_transposed else stack

    def forward(self, x):  # [experts, rows, width] of x [rows, width]
        gate, up = (x @ self.laid(self.gate_up_proj).mT).chunk(2, -1)
        return (torch.tanh(gate) * up) @ self.laid(self.down_proj).mT


class Separate(nn.Module):
    """The same experts as linear layers."""

    def __init__(self, experts):
        super().__init__()
        for name in ("gate_up_proj", "down_proj"):
            layers = [
                nn.Linear(*w.shape[::-1], False) for w in experts.laid(getattr(experts, name))
            ]
            for layer, weight in zip(layers, experts.laid(getattr(experts, name)), strict=True):
                layer.weight.data = weight.detach().clone()
            setattr(self, name, nn.ModuleList(layers))

    def forward(self, x):
        each = [up(x).chunk(2, -1) for up in self.gate_up_proj]
        inner = [torch.tanh(gate) * up for gate, up in each]
        return torch.stack([d(h) for d, h in zip(self.down_proj, inner, strict=True)])


class Mixture(nn.Module):
    """A router and experts, of which all are asked."""

    def __init__(self, width, hidden, **options):
        super().__init__()
        self.experts = Experts(width, hidden, **options)
        self.router = nn.Parameter(torch.randn(width, len(self.experts.down_proj)))

    def forward(self, x):
        return x + torch.einsum("re,erw->rw", (x @ self.router).softmax(-1), self.experts(x))


class Attention(nn.Module):
    """Rows that attend to each other."""

    def __init__(self, width, hidden):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2)
        self.up = nn.Linear(width, width)

    def forward(self, x):
        return x + self.up(self.attention(x, x, x)[0])


class Net(nn.Module):
    """A table, two blocks and a head."""

    def __init__(self, width=8, hidden=12, blocks=2, block=Block):
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.blocks = nn.ModuleList([block(width, hidden) for _ in range(blocks)])
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
