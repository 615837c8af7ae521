"""Compact models say what the originals said, whatever the network is made of."""
import copy, importlib.util, json, os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import prune                                    # not imported with torch
from torch.utils._pytree import tree_leaves

from ggr_nb.train.compact import Reader, compact
from ggr_nb.init import sparse_init_
from ggr_nb.masks import sparse_parameters
from ggr_nb.train.measure import emptiness, parameters
from ggr_nb.train.models import MODELS, mlp
from ggr_nb.sparse import SparseLinear
from ggr_nb.sparsify import Sparsifier
from ggr_nb.train.deploy import deploy

SIZE = {'lenet': (1, 28, 28), 'mlp': (1, 8, 8), 'digits_net': (1, 8, 8)}
WIDTH = {'vgg16_tiny': .06, 'mobilenet_v2': .1, 'resnet18': .125}


def partly(model, used, d, seed):
    "Random masks of density d inside a random share of the neurons and of the inputs."
    g = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=g) < d for n, p in sparse_parameters(model).items()}
    for m in list(masks.values())[:-1]: m[torch.rand(len(m), generator=g) > used] = False
    for m in list(masks.values())[1:]: m[:, torch.rand(m.shape[1], generator=g) > .5 + used/2] = False
    return masks


def lively(model, masks, size, seed):
    "Random biases and norms, statistics from a batch: dead channels send constants, live ones signals."
    torch.manual_seed(seed); model.double()
    for n, p in model.named_parameters():
        if n in masks: sparse_init_(p, masks[n])
        else: p.data = torch.randn_like(p)*.3 + ('weight' in n)
    with torch.no_grad():
        for m in model.modules():
            if hasattr(m, 'momentum'): m.momentum = None
        model.train()(torch.randn(6, *size).double())
    return model.eval()


def assert_same(model, masks, size):
    small, x = compact(model, masks, torch.zeros(1, *size).double()), torch.randn(5, *size).double()
    with torch.no_grad(): a, b = model(x), small(x)
    assert a.shape == b.shape and (a - b).abs().max() <= 1e-9*(1 + a.abs().max()), (a - b).abs().max()
    return small


@pytest.mark.parametrize('name', sorted(set(MODELS) - {'vgg16'}))
@given(used=st.floats(.1, .9), d=st.floats(.05, .5), seed=st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_same_outputs_and_smaller(name, used, d, seed):
    size = SIZE.get(name, (3, 32, 32)); net = MODELS[name](width=WIDTH.get(name, .3), input_size=size); masks = partly(net, used, d, seed)
    lively(net, masks, size, seed); state = {k: v.clone() for k, v in net.state_dict().items()}
    small = assert_same(net, masks, size)
    assert type(small) is type(net) and parameters(small).weights <= parameters(net).weights
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    again = assert_same(small, None, size)
    assert parameters(again).weights <= parameters(small).weights


@given(st.integers(0, 10**6), st.floats(.3, .9))
@settings(max_examples=25, deadline=None)
def test_an_mlp_keeps_exactly_its_connected_neurons(seed, used):
    net = mlp((6, 12, 10, 8, 3)); masks = partly(net, used, .3, seed); lively(net, masks, (6,), seed)
    small, alive = assert_same(net, masks, (6,)), emptiness(masks, net, (6,))
    if alive.active: assert parameters(small).weights == sum(a*b for a, b in hidden_sizes(net, masks))


def hidden_sizes(net, masks):
    "Rows and columns of each layer when a hidden neuron stays if it is on a path."
    from ggr_nb.train.measure import connected
    live = list(connected(net, masks, (6,)).values())
    sizes = [6] + [int((a.any(1) & b.any(0)).sum()) for a, b in zip(live, live[1:])] + [3]
    return list(zip(sizes, sizes[1:]))


# networks made of what is not in MODELS

class Net(nn.Module):
    "One odd operation between two convolutions, then pooling and a linear layer."
    def __init__(self, middle=nn.Identity(), channels=8, **kw):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(channels, 8, 3, **{'padding': 1, **kw})
        self.middle, self.c, self.d = middle, nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
    def between(self, x): return self.middle(x)
    def forward(self, x): return self.d(F.relu(self.c(F.relu(self.b(self.between(F.relu(self.n(self.a(x)))))))).mean((2, 3)))


class Cat(Net):
    def between(self, x): return torch.cat([x, x.flip(2)], 1)
class Gate(Net):
    def between(self, x): return x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1))
class SameGate(Net):
    def between(self, x): return x * torch.sigmoid(x) + .5
class Twice(Net):
    def between(self, x): return self.middle(F.relu(self.middle(x)))
class Residual(Net):
    def between(self, x):
        x += self.middle(x)
        return x + F.relu(self.middle[0](x)) if isinstance(self.middle, nn.Sequential) else x
class Fixed(Net):
    def between(self, x): return x.view(x.size(0), 8, 8, 8)
class Soft(Net):
    def between(self, x): return torch.softmax(x, 1)
class Split(Net):
    def between(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([b, a], 1)
class Scaled(Net):
    def between(self, x): return x / x.size(1)
class Times(Net):
    def between(self, x): return x * x.size(1)
class Batch(Net):
    def between(self, x): return F.relu(self.middle(x * x.size(0)))
class Numbers(Net):
    def forward(self, x): return self.d(F.adaptive_avg_pool2d(F.relu(self.n(self.a(x))), 1).view(x.size(0), 8))
class Factors(Net):
    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.n(self.a(x))), (1, 2)).flatten(1)
        return self.d(self.middle(x + torch.relu(self.middle(x)))[:, :8])
class Ends(Net):
    def forward(self, x): return self.d(torch.flatten(F.max_pool2d(F.relu(self.n(self.a(x))), 8, padding=1)[:, :, :1, :1], 1))


ODD = {
    'plain': lambda: Net(), 'cat': lambda: Cat(channels=16), 'gate': Gate, 'gate of its own': SameGate, 'softmax': Soft, 'view': Fixed,
    'chunk': Split, 'division by a size': Scaled, 'times a size': Times, 'times the batch': lambda: Batch(nn.Conv2d(8, 8, 1)), 'view by numbers': Numbers,
    'two factors': lambda: Factors(nn.Linear(16, 16)), 'two factors, apart': lambda: Factors(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))),
    'slice': Ends, 'twice': lambda: Twice(nn.Conv2d(8, 8, 1)),
    'residual': lambda: Residual(nn.Conv2d(8, 8, 3, padding=1)), 'residual, shared inside': lambda: Residual(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())),
    'depthwise': lambda: Net(nn.Conv2d(8, 8, 3, padding=1, groups=8)), 'grouped': lambda: Net(nn.Conv2d(8, 8, 3, padding=1, groups=2)),
    'depth multiplier': lambda: Net(nn.Conv2d(8, 16, 3, padding=1, groups=8), 16), 'transposed': lambda: Net(nn.ConvTranspose2d(8, 8, 3)),
    'prelu': lambda: Net(nn.PReLU(8)), 'group norm': lambda: Net(nn.GroupNorm(2, 8)), 'instance norm': lambda: Net(nn.InstanceNorm2d(8, affine=True)),
    'plain norm': lambda: Net(nn.BatchNorm2d(8, affine=False)), 'no statistics': lambda: Net(nn.BatchNorm2d(8, track_running_stats=False)),
    'max-pool, padded': lambda: Net(nn.MaxPool2d(3, 2, 1)), 'average, padded': lambda: Net(nn.AvgPool2d(3, 2, 1)),
    'sigmoid': lambda: Net(nn.Sigmoid()), 'same': lambda: Net(padding='same'), 'valid': lambda: Net(padding='valid'),
    'reflect': lambda: Net(padding_mode='reflect'), 'circular': lambda: Net(padding_mode='circular'), 'dilated': lambda: Net(dilation=2, stride=2),
    'one-sided': lambda: Net(nn.ZeroPad2d((1, 0, 0, 0)), padding=0), 'upsampled': lambda: Net(nn.Upsample(scale_factor=2)), 'dropped': lambda: Net(nn.Dropout2d()),
}


@pytest.mark.parametrize('kind', sorted(ODD))
@pytest.mark.parametrize('seed', range(3))
def test_odd_networks_stay_exact(kind, seed):
    torch.manual_seed(seed); net = ODD[kind](); masks = partly(net, .5, .3, seed); lively(net, masks, (3, 8, 8), seed)
    small = assert_same(net, masks, (3, 8, 8))
    if kind in ('plain', 'depthwise', 'valid', 'dilated', 'dropped', 'sigmoid'): assert parameters(small).weights < .8*parameters(net).weights


def test_carriers_leave_one_constant_channel():
    net = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Conv2d(9, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=2)).double()
    net[0].weight.data[2:] = 0; net[0].bias.data[2:] = torch.linspace(.1, 1, 7)
    assert assert_same(net, None, (1, 7, 7))[0].out_channels == 3
    net[0].bias.data[2:] = -1.                                     # behind a ReLU: zero, and nothing to carry
    assert assert_same(net, None, (1, 7, 7))[0].out_channels == 2


def test_no_carrier_without_zeros_around():
    for kw in (dict(padding_mode='reflect', padding=1), dict(padding_mode='circular', padding=1), dict(padding='valid')):
        net = nn.Sequential(nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Conv2d(9, 3, 3, **kw)).double()
        net[0].weight.data[2:] = 0; net[0].bias.data[2:] = 1.
        assert assert_same(net, None, (1, 7, 7))[0].out_channels == 2


def test_what_an_operation_in_place_leaves_behind_is_read():
    class Sneaky(nn.Module):
        def __init__(self): super().__init__(); self.a, self.r, self.b = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)
        def forward(self, x):
            h = self.a(x); self.r(h)
            return self.b(h)
    class Mixed(Sneaky):
        def forward(self, x):
            h = self.a(x); h.add_(F.relu(x.mean(1, keepdim=True) - 3))     # what was constant is none any more, though not for every input
            return self.b(h)
    for kind in Sneaky, Mixed:
        net = kind().double(); net.a.weight.data[2:] = 0; net.a.bias.data[2:] = -1.
        small = assert_same(net, None, (4,))
        assert small.a.out_features == (2 if kind is Sneaky else 6)


def test_dead_residual_loop_goes_away():
    class Loop(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b, self.c = (nn.Conv2d(*s, 1) for s in ((2, 6), (6, 6), (6, 2)))
        def forward(self, x): x = self.a(x); x = x + self.b(x); x = x + F.relu(x); return self.c(x)
    net = Loop().double(); net.c.weight.data[:, 3:] = 0; net.b.weight.data[:3, 3:] = 0   # channels 3… feed each other and nobody else
    assert assert_same(net, None, (2, 4, 4)).a.out_channels == 3


def test_everything_dead_is_a_constant():
    net = mlp((5, 4, 4, 2)).double(); net.fc2.weight.data.zero_(); net.fc2.bias.data.uniform_()
    small = assert_same(net, None, (5,))
    assert (small.fc1.out_features, small.fc2.out_features) == (1, 1)


def test_one_dimensional_and_norm_after_flattening():
    net = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    masks = partly(net, .5, .5, 1); lively(net, masks, (2, 5), 1)
    assert assert_same(net, masks, (2, 5))[4].num_features < 30


def test_an_unknown_operation_depends_on_everything():
    net = nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    net[0].weight.data[3:] = 0                                     # constant before the softmax, not behind it
    small = assert_same(net, None, (4,))
    assert (small[0].out_features, small[2].out_features) == (6, 5)


def test_values_are_taken_before_they_are_overwritten():
    class InPlace(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        def forward(self, x):
            h = self.a(x); u = self.b(h); h = h.add_(1.)
            return u + self.c(h)
    net = InPlace().double(); net.a.weight.data[2:] = 0
    assert assert_same(net, None, (4,)).a.out_features == 2


class Net2(nn.Module):
    "A network with these modules and this forward(self, x)."
    def __init__(self, forward, **modules):
        super().__init__(); self.does = forward
        for name, m in modules.items(): setattr(self, name, m)
    def forward(self, x): return self.does(self, x)


class Optional(nn.Module):
    def __init__(self): super().__init__(); self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
    def forward(self, x, mask=None): return self.b(F.relu(self.a(x if mask is None else x * mask)))
class Scale(nn.Module):
    def __init__(self, *shape): super().__init__(); self.a, self.b, self.gamma = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Parameter(torch.rand(shape) + .5)
    def forward(self, x): return self.b(F.relu(self.a(x)) * self.gamma)
class Branches(nn.Module):
    def forward(self, x): return x.flip(1) if x.sum() > 0 else x * 2


def C(*a, **kw): return nn.Conv2d(*a, **kw)
def L(*a): return nn.Linear(*a)
def asserted(s, x):
    torch._assert(x.shape[1] == 3, 'three')
    return s.b(F.relu(s.a(x)))
def counted(s, x):
    h = F.relu(s.a(x)); torch._assert(h.shape[1] == 8, 'eight')
    return s.b(h)
def unbound(s, x):
    q, k, v = s.a(x).unflatten(1, (3, 4)).unbind(1)
    return s.b(q * k + v)
def parted(s, x):
    p, q = s.a(x).split([2, 6], 1)
    return s.b(torch.cat([F.relu(q), F.relu(p)], 1))
def gated(s, x): h = F.relu(s.a(x)); return s.b(h * torch.sigmoid(s.g(h)))
def excited(s, x): h = F.relu(s.a(x)); return s.b(h * torch.sigmoid(s.g(h.mean((2, 3), keepdim=True))))
def joined(s, x): h = F.relu(s.a(x)); return s.b(torch.cat([h, F.relu(s.c(h)), h], 1))


ODDER = {                                                          # what ended in unrelated errors, or was cut where it may not be
    'an assertion': lambda: Net2(asserted, a=C(3, 8, 3), b=C(8, 4, 1)), 'an assertion about channels': lambda: Net2(counted, a=C(3, 8, 3), b=C(8, 4, 1)),
    'a size of another tensor': lambda: Net2(lambda s, x: s.b(F.relu(s.c(x))) / s.a(x).size(1), a=C(3, 8, 3), c=C(3, 8, 3), b=C(8, 4, 1)),
    'a dict': lambda: Net2(lambda s, x: dict(out=s.b(F.relu(s.a(x))), aux=[s.d(F.relu(s.a2(x)))]), a=C(3, 8, 3), a2=C(3, 8, 3), b=C(8, 4, 1), d=C(8, 2, 1)),
    'an optional argument': Optional,
    'the mean over channels': lambda: Net2(lambda s, x: s.d(F.relu(s.a(x)).mean(1).unsqueeze(1)), a=C(3, 6, 3), d=C(1, 2, 1)),
    'the mean over channels, sizes alike': lambda: Net2(lambda s, x: s.d(F.relu(s.a(x)).mean(1)), a=C(3, 6, 3), d=nn.Conv1d(6, 2, 1)),
    'unbind': lambda: Net2(unbound, a=C(3, 12, 3), b=C(4, 2, 1)),
    'a list of parts': lambda: Net2(parted, a=C(3, 8, 3), b=C(8, 4, 1)),
    'a parameter multiplied in': lambda: Scale(8, 1, 1), 'a parameter of four dimensions': lambda: Scale(1, 8, 1, 1), 'a parameter for each place': lambda: Scale(8, 6, 6),
    'one parameter for all': lambda: Scale(1),
    'a spatial gate': lambda: Net2(gated, a=C(3, 8, 3), g=C(8, 1, 1), b=C(8, 4, 1)), 'a channel gate': lambda: Net2(excited, a=C(3, 8, 3), g=C(8, 8, 1), b=C(8, 4, 1)),
    'channels last': lambda: Net2(lambda s, x: s.b(F.gelu(s.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2), a=L(3, 8), b=L(8, 4)),
    'channels last, flattened': lambda: Net2(lambda s, x: s.d(F.relu(s.a(x)).permute(0, 2, 3, 1).flatten(1)), a=C(3, 8, 3), d=L(8*36, 3)),
    'channels last, pooled over channels': lambda: Net2(lambda s, x: s.d(F.max_pool2d(F.relu(s.a(x)).permute(0, 2, 3, 1), 2).flatten(1)), a=C(3, 6, 3), d=L(6*3*3, 3)),
    'features, pooled': lambda: Net2(lambda s, x: s.d(F.avg_pool1d(F.relu(s.a(x.flatten(1))), 2)), a=L(192, 8), d=L(4, 2)),
    'tokens, features pooled': lambda: Net2(lambda s, x: s.d(F.max_pool2d(F.relu(s.a(x.flatten(2))), 3, 1, 1).flatten(1)), a=L(64, 8), d=L(24, 2)),
    'tokens': lambda: Net2(lambda s, x: s.b(F.gelu(s.c(s.n(s.a(x).flatten(2).transpose(1, 2))))).mean(1), a=C(3, 8, 3), n=nn.LayerNorm(8), c=L(8, 16), b=L(16, 4)),
    'attention': lambda: Net2(lambda s, x: s.b(F.relu(s.m(*[s.a(x).flatten(2).transpose(1, 2)] * 3)[0])), a=C(3, 8, 3), m=nn.MultiheadAttention(8, 2, batch_first=True), b=L(8, 4)),
    'a part that branches on values': lambda: Net2(lambda s, x: s.d(F.relu(s.c(s.m(F.relu(s.a(x)))))), a=C(3, 8, 3), m=Branches(), c=C(8, 8, 3), d=C(8, 2, 1)),
    'integers': lambda: Net2(lambda s, x: s.b(F.relu(s.a(x))[:, s.order]), a=C(3, 8, 3), b=C(8, 4, 1), order=nn.Buffer(torch.arange(8).flip(0))),
    'concatenated, twice the same': lambda: Net2(joined, a=C(3, 8, 3), c=C(8, 6, 3, padding=1), b=C(22, 4, 3, padding=1)),
    'functional batch norm': lambda: Net2(lambda s, x: s.b(F.relu(F.batch_norm(s.a(x), s.n.running_mean, s.n.running_var, s.n.weight, s.n.bias))), a=C(3, 8, 3), n=nn.BatchNorm2d(8), b=C(8, 4, 1)),
    'weights of a layer that is not called': lambda: Net2(lambda s, x: s.b(F.relu(F.conv2d(x, s.a.weight, s.a.bias))), a=C(3, 8, 3), b=C(8, 4, 1)),
    'weight norm': lambda: Net2(lambda s, x: s.b(F.relu(s.a(x))), a=nn.utils.parametrizations.weight_norm(C(3, 8, 3)), b=C(8, 4, 1)),
    'pruned by torch': lambda: Net2(lambda s, x: s.b(F.relu(s.a(x))), a=nn.utils.prune.l1_unstructured(C(3, 8, 3), 'weight', .5), b=C(8, 4, 1)),
    'one layer, nothing else': lambda: C(3, 8, 3),
}
SMALLER = {'an assertion', 'a dict', 'a size of another tensor', 'an optional argument', 'a parameter multiplied in', 'a parameter of four dimensions', 'one parameter for all', 'a channel gate', 'channels last',
           'channels last, flattened', 'tokens', 'a part that branches on values', 'concatenated, twice the same', 'functional batch norm'}


@pytest.mark.parametrize('kind', sorted(ODDER))
def test_odder_networks_are_the_same_and_smaller_where_that_is_understood(kind):
    torch.manual_seed(1); net = ODDER[kind]().double().eval(); x = torch.randn(4, 3, 8, 8).double()
    for name, m in net.named_children():                           # every other neuron says a constant
        if name in ('a', 'a2', 'c', 'g') and type(m) in (nn.Conv2d, nn.Linear) and not m._forward_pre_hooks: m.weight.data[::2] = 0; m.bias.data.uniform_(.1, 1.)
    if type(getattr(net, 'd', None)) is nn.Conv1d: net.d.weight.data[:, ::2] = 0   # rows that nobody reads are no channels
    with torch.no_grad(): net(x)                                  # a pruned weight is computed anew, without its graph
    small = compact(net, None, x); again = compact(small, None, x)  # what came out is a model like any other
    with torch.no_grad(): outs = [tree_leaves(m(x)) for m in (net, small, again)]
    for out in outs[1:]: assert all(torch.allclose(p, q, rtol=1e-10, atol=1e-12) for p, q in zip(outs[0], out, strict=True))
    count = lambda m: sum(p.numel() for p in m.parameters())
    assert type(small) is type(net) and ((count(small) < count(net)) if kind in SMALLER else count(small) == count(net)), (count(small), count(net))


def test_what_cannot_be_kept_is_said_in_one_sentence():
    x = torch.zeros(1, 3, 8, 8)
    random, infinite = Net2(lambda s, x: F.dropout(s.a(x), .5, training=True), a=C(3, 8, 3)), Net2(lambda s, x: s.a(x) / 0, a=C(3, 8, 3))
    strange, net, ones = Net2(lambda s, x: 'a word', a=C(3, 8, 3)), Net2(lambda s, x: s.a(x), a=C(3, 2, 3)), torch.ones(2, 3, 3, 3)
    for model, masks, words in ((random, None, 'differently each time'), (infinite, None, 'not finite'), (strange, None, 'answers with str'),
                                (net, {'b.weight': torch.ones(1)}, r"do not fit the model.*'b.weight': \(None, \(1,\)\)"), (net, {'a.weight': torch.ones(2, 3, 1, 1)}, r'do not fit.*\(2, 3, 1, 1\)'),
                                (net, {'a.weight': ones / 2}, 'other values than 0 and 1'), (net, {'a.weight': -ones}, 'other values'), (net, {'a.weight': ones * float('nan')}, 'other values')):
        with pytest.raises(ValueError, match=words) as e: compact(model, masks, x)
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='cannot be copied'): compact(nn.Sequential(prune.l1_unstructured(C(3, 8, 3), 'weight', .5)), None, x)
    for kind in (torch.bool, torch.int64, torch.float16): compact(net, {'a.weight': ones.to(kind)}, x)


def test_a_wrong_cut_is_an_error_and_not_a_network(monkeypatch):
    "The check is relative to the outputs: in a network of small numbers a small error is refused as well."
    net, cut = mlp((5, 4, 2)), Reader.cut
    net.fc1.weight.data[2:] = 0; net.fc1.bias.data.fill_(.3)
    def wrong(r, *a):
        new = cut(r, *a); new.bias.data *= 1.01
        return new
    monkeypatch.setattr(Reader, 'cut', wrong)
    for scale in (1e-6, 1., 1e6):
        net.fc2.weight.data.uniform_(.5, 1.); net.fc2.weight.data *= scale; net.fc2.bias.data.fill_(scale)
        with pytest.raises(RuntimeError, match='of its largest output'): compact(net, None, torch.zeros(1, 5))


# other people's models; all of them with ZOO=1

BENCH = Path(__file__).parent.parent / 'benchmarks' / 'compact.py'
ZOO = importlib.util.module_from_spec(importlib.util.spec_from_file_location('zoo', BENCH)); ZOO.__spec__.loader.exec_module(ZOO)
KNOWN = json.loads(BENCH.with_suffix('.json').read_text())
QUICK = '''torchvision:resnet18 torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1 torchvision:vit timm:resnet18
    timm:efficientnet_lite0 timm:ghostnet_050 timm:regnety_002 timm:lcnet_035 timm:edgenext_xx_small timm:dla46_c timm:hardcorenas_a'''.split()


def test_the_table_of_models_is_whole():
    assert set(KNOWN) == set(ZOO.TRIED) and len(KNOWN) >= 60 and sum(r['outcome'] == 'works' for r in KNOWN.values()) > .9 * len(KNOWN)
    assert all('\n' not in r['outcome'] for r in KNOWN.values())


@pytest.mark.parametrize('name', ZOO.TRIED if os.environ.get('ZOO') else QUICK)
def test_models_of_others_do_what_the_table_says(name):
    if name.startswith('timm'): pytest.importorskip('timm')
    got, known = ZOO.tried(name), KNOWN[name]
    assert got['outcome'] == known['outcome'], got
    if got['outcome'] == 'works':
        assert got['error'] <= (1e-9 if got['dtype'] == 'float64' else 1e-3), got
        assert abs(got['left'] - known['left']) <= .02 * known['parameters'], got


def test_refusals():
    class Branch(nn.Module):
        def __init__(self): super().__init__(); self.f = nn.Linear(2, 2)
        def forward(self, x): return self.f(x) if x.mean() > 0 else x
    with pytest.raises(ValueError, match='torch.fx cannot follow Branch'): compact(Branch(), None, torch.zeros(1, 2))
    with pytest.raises(ValueError, match='nothing'): compact(mlp(), {'nothing': torch.ones(1)}, torch.zeros(1, 1, 8, 8))


def test_hooks_of_a_sparsifier_stand_in_nobodys_way():
    "After a write from outside every layer has one; a compact network has none, and is as small as without."
    torch.manual_seed(0); net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
    optimizer = torch.optim.SGD(net.parameters(), .1); s = Sparsifier(net, optimizer, 'static', density=.05); x = torch.randn(8, 20)
    def step(): optimizer.zero_grad(); net(x).square().mean().backward(); optimizer.step()
    sizes = lambda m: [tuple(p.shape) for p in m.parameters()]
    step(); small = sizes(compact(net, s.masks, x))
    with torch.no_grad(): net[0].weight.add_(.01)
    with pytest.warns(UserWarning, match='outside the optimiser'): step()
    again = compact(net, s.masks, x)
    assert sizes(again) == small != sizes(net)
    assert not any(m._forward_pre_hooks or m._load_state_dict_post_hooks for m in again.modules())


@pytest.mark.parametrize('way', [lambda h: torch.cat(h.chunk(2, 1), 1), lambda h: torch.cat(torch.split(h, 20, 1), 1),
                                 lambda h: torch.cat(tensors=[h[:, :20], h[:, 20:]], dim=1), lambda h: torch.reshape(input=h, shape=(-1, 40))])
def test_what_is_not_read_costs_size_and_never_correctness(way):
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(20, 40), nn.Linear(40, 5)
        def forward(self, x): return self.b(way(torch.relu(self.a(x))))
    torch.manual_seed(0); net, x = Net().eval(), torch.randn(4, 20)
    with torch.no_grad(): net.a.weight[:30] = 0; net.a.bias[:30] = 0
    assert torch.allclose(compact(net, None, x)(x), net(x))


@pytest.mark.parametrize('function', [compact, deploy])
@pytest.mark.parametrize('wrong, said', [(dict(model=None), 'the model is a NoneType'), (dict(model=nn.ReLU()), 'ReLU has no parameters'), (dict(masks=[1]), 'masks is a list'),
                                         (dict(masks=3), 'masks is a int'), (dict(masks=torch.ones(2)), 'masks is a Tensor'), (dict(masks={'0.weight': [1, 0]}), r'0.weight.*\(2,\)'), (dict(masks={'0.weight': None}), 'no mask for'), (dict(example=[1, 2]), 'give one batch'),
                                         (dict(example=torch.tensor(1.)), 'give one batch'), (dict(example=torch.zeros(0, 8)), 'give one batch')], ids=str)
def test_what_is_no_model_no_masks_or_no_batch_is_told(function, wrong, said):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    how = dict(model=model, masks=None, example=torch.randn(3, 8)) | wrong
    with pytest.raises(ValueError, match=said): function(*how.values())


def test_a_network_that_is_stored_sparsely_is_made_smaller_as_a_masked_one_is():
    class Twice(nn.Module):
        def __init__(self): super().__init__(); self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 4); self.again = self.a
        def forward(self, x): return self.b(self.again(self.a(x).relu()).relu())
    for model in (nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), Twice()):
        masks = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < .05 for n, p in model.named_parameters() if p.ndim == 2}
        stored = copy.deepcopy(model); layers = {m: SparseLinear.from_linear(m, masks[f'{n}.weight'].flatten().nonzero().flatten()) for n, m in stored.named_modules() if type(m) is nn.Linear}
        for n, m in list(stored.named_modules(remove_duplicate=False)):
            if m in layers: setattr(stored, n, layers[m])
        small, x = compact(stored, masks, torch.randn(3, 32)), torch.randn(5, 32)
        assert not any(isinstance(m, SparseLinear) for m in small.modules()) and any(isinstance(m, SparseLinear) for m in stored.modules())
        same = compact(model, masks, torch.randn(3, 32)); torch.testing.assert_close(small(x), same(x))
        assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in same.parameters())
