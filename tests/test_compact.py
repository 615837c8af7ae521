"""Compact models say what the originals said, whatever the network is made of."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from ggr_nb.train.compact import compact
from ggr_nb.init import sparse_init_
from ggr_nb.masks import sparse_parameters
from ggr_nb.train.measure import emptiness, parameters
from ggr_nb.train.models import MODELS, mlp

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


def test_a_discarded_result_of_an_in_place_operation_is_noticed():
    class Sneaky(nn.Module):
        def __init__(self): super().__init__(); self.a, self.r, self.b = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)
        def forward(self, x):
            h = self.a(x); self.r(h)
            return self.b(h)
    net = Sneaky(); net.a.weight.data[2:] = 0; net.a.bias.data[2:] = -1.
    with pytest.raises(RuntimeError, match='differs from the original'): compact(net, None, torch.zeros(1, 4))


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


def test_refusals():
    class Branch(nn.Module):
        def __init__(self): super().__init__(); self.f = nn.Linear(2, 2)
        def forward(self, x): return self.f(x) if x.mean() > 0 else x
    with pytest.raises(ValueError, match='torch.fx cannot follow Branch'): compact(Branch(), None, torch.zeros(1, 2))
    with pytest.raises(ValueError, match='nothing'): compact(mlp(), {'nothing': torch.ones(1)}, torch.zeros(1, 1, 8, 8))
