"""The builders: any width, class count and picture; names and shapes of torchvision's; errors that help."""
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torchvision import models as tv

from ggr_nb.train.models import MODELS, SCHEMES, initialise_, lenet, mlp, mobilenet_v2, resnet18, vgg16, vgg16_tiny

LEAST = {'vgg16': 32, 'vgg16_tiny': 16, 'lenet': 4, 'digits_net': 4}


def shapes(model): return {n: tuple(p.shape) for n, p in model.state_dict().items()}


@given(st.sampled_from(sorted(MODELS)), st.floats(.02, .2), st.integers(1, 12), st.integers(1, 4), st.integers(32, 40))
@settings(max_examples=25, deadline=None)
def test_any_width_classes_and_picture(name, width, classes, channels, side):
    net = MODELS[name](num_classes=classes, width=width, input_size=(channels, side, side)).eval()
    assert net(torch.randn(2, channels, side, side)).shape == (2, classes)


@pytest.mark.parametrize('name', sorted(LEAST))
def test_smallest_picture_works_and_a_smaller_one_is_refused(name):
    side = LEAST[name]
    build = lambda s: MODELS[name](num_classes=3, width=.05, input_size=(2, s, s)).eval()
    assert build(side)(torch.randn(2, 2, side, side)).shape == (2, 3)
    with pytest.raises(ValueError, match=f'{side}×{side} or larger'): build(side - 1)


def test_names_and_shapes_are_torchvisions():
    with torch.device('meta'):
        assert shapes(vgg16()) == shapes(tv.vgg16())
        assert shapes(vgg16(batch_norm=True)) == shapes(tv.vgg16_bn())
        assert shapes(mobilenet_v2()) == shapes(tv.mobilenet_v2(num_classes=100))
        ours, theirs = shapes(resnet18()), shapes(tv.resnet18(num_classes=100))
    assert {n for n in ours if ours[n] != theirs.pop(n)} == {'conv1.weight'} and not theirs


def test_mobilenet_with_the_original_strides_is_the_original():
    theirs, ours = tv.mobilenet_v2(num_classes=5).eval(), mobilenet_v2(5).eval()
    ours.load_state_dict(theirs.state_dict())
    for a, b in zip(ours.modules(), theirs.modules()):
        if isinstance(a, nn.Conv2d): a.stride = b.stride
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(): assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize('rule', sorted(SCHEMES))
def test_scale_of_the_weights(rule):
    net = initialise_(nn.Sequential(nn.Conv2d(16, 64, 3, groups=2), nn.Linear(300, 400)), rule)
    for layer, fan_in in zip(net, (8*9, 300)):
        std = (2/fan_in)**.5 * (6**-.5 if rule == 'torch' else 1)
        assert abs(layer.weight.std().item()/std - 1) < .03 and not layer.bias.any()
        if rule != 'kaiming_normal': assert layer.weight.abs().max() <= 3**.5*std*1.0001


def test_one_seed_one_network():
    def build(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in resnet18(width=.1).parameters()])
    assert torch.equal(build(1), build(1)) and not torch.equal(build(1), build(2))


@pytest.mark.parametrize('bad', [dict(num_classes=0), dict(width=0), dict(width=-1.), dict(input_size=(3, 32))])
@pytest.mark.parametrize('name', sorted(set(MODELS) - {'mlp'}))
def test_bad_arguments_are_named(name, bad):
    with pytest.raises(ValueError, match=next(iter(bad))): MODELS[name](**bad)


def test_bad_names_and_sizes():
    with pytest.raises(ValueError, match="unknown scheme 'xavier'.*kaiming_uniform, "): mlp(scheme='xavier')
    with pytest.raises(ValueError, match='input and an output'): mlp((5,))


def test_lenet_of_lecun_at_two_sizes():
    assert sum(p.numel() for p in lenet().parameters()) == 61_706
    assert sum(p.numel() for p in lenet(input_size=(3, 32, 32)).parameters()) == 62_006


def test_vgg16_tiny_takes_its_size_from_the_picture():
    for side in (16, 32, 64): assert vgg16_tiny(width=.1, input_size=(3, side, side)).classifier[0].in_features == 51*(side//16)**2
