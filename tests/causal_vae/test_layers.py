"""The streaming primitives against torch's own layers, and the laws on each."""

import pytest
import torch
import torch.nn.functional as F
from causal_vae import (
    CausalConv1d,
    CausalConv3d,
    CausalConvNeXt,
    CausalConvTranspose1d,
    InverseSTFT,
    LogMel,
    StreamingSequential,
)
from causal_vae.testing import check_causal, check_streaming

LAYERS = {
    "conv": (lambda: CausalConv1d(3, 5, 4, dilation=2), (2, 3, 12)),
    "conv stride": (lambda: CausalConv1d(3, 5, 5, stride=2), (2, 3, 12)),
    "conv pointwise": (lambda: CausalConv1d(3, 5, 1), (2, 3, 6)),
    "transposed": (lambda: CausalConvTranspose1d(3, 5, 7, 3), (2, 3, 6)),
    "conv3d": (lambda: CausalConv3d(3, 4, (3, 3, 3)), (2, 3, 6, 4, 5)),
    "conv3d stride": (lambda: CausalConv3d(3, 4, (4, 3, 3), (2, 2, 2)), (2, 3, 8, 4, 6)),
    "convnext": (lambda: CausalConvNeXt(4, 8), (2, 4, 9)),
    "log-mel": (lambda: LogMel(8000, 8, 60, 64, 20), (2, 1, 100)),
    "istft": (lambda: InverseSTFT(10), (2, 22, 6)),
    "row of layers": (
        lambda: StreamingSequential(CausalConv1d(2, 3, 4, stride=2), torch.nn.ELU(), CausalConvTranspose1d(3, 2, 5, 3)),
        (2, 2, 12),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_laws(name):
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build().eval(), torch.randn(shape)
    check_streaming(layer, x)
    assert check_causal(layer, x) == 0


def test_conv3d_equals_torch():
    torch.manual_seed(0)
    layer = CausalConv3d(3, 4, (3, 3, 3), (1, 2, 1))
    x = torch.randn(2, 3, 5, 8, 6)
    expected = F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), layer.conv.weight, layer.conv.bias, (1, 2, 1))
    torch.testing.assert_close(layer(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_transposed_equals_torch():
    torch.manual_seed(0)
    layer, x = CausalConvTranspose1d(3, 5, 7, 3), torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x)[0], layer.conv(x)[:, :, :18])


def test_log_mel_equals_torchaudio():
    transforms = pytest.importorskip("torchaudio.transforms")
    ours, x = LogMel(24000, 40, 960, 960, 240), torch.randn(1, 1, 4800)
    theirs = transforms.MelSpectrogram(24000, 960, hop_length=240, n_mels=40, f_min=40, center=False, power=1.0)
    filters = theirs.mel_scale.fb / theirs.mel_scale.fb.sum(dim=0)
    spectrum = theirs.spectrogram(F.pad(x[:, 0], (720, 0)))
    expected = torch.log(filters.T @ spectrum + 1e-3)
    torch.testing.assert_close(ours(x)[0], expected, atol=1e-3, rtol=1e-3)


def test_a_strided_kernel_that_skips_inputs_is_refused():
    with pytest.raises(ValueError, match="skip"):
        CausalConv1d(1, 1, 2, stride=3)
    with pytest.raises(ValueError, match="gaps"):
        CausalConvTranspose1d(1, 1, 2, 3)


class LooksAhead(CausalConv1d):
    """Padded on the wrong side."""

    def forward(self, x, state=None):
        self.check_length(x)
        return self.conv(F.pad(x, (0, self.num_past))), x.new_zeros(x.shape[0], 1)


class KeepsItsState(CausalConv1d):
    """Remembers the stream on the module."""

    past = None

    def forward(self, x, state=None):
        y, self.past = super().forward(x, state if state is not None else self.past)
        return y, self.past


def test_the_checks_catch_broken_modules():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12)
    with pytest.raises(AssertionError, match="look-ahead"):
        check_causal(LooksAhead(3, 5, 4), x)
    with pytest.raises(AssertionError):
        check_streaming(LooksAhead(3, 5, 4), x)
    with pytest.raises(AssertionError):
        check_streaming(KeepsItsState(3, 5, 4), x)
