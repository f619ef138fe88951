"""A run that stops and continues is one run, and its average of the weights is not its weights."""

import csv
from types import SimpleNamespace

import pytest
import torch
from causal_vae import CausalAudioVAE
from causal_vae.losses import AudioReconstructionLoss
from causal_vae.training import EndlessBatches, VAETraining, average_decay, build_trainer, fit
from lightning.pytorch.callbacks import Callback, model_checkpoint


class Noises(EndlessBatches):
    def draw(self, step, rank):
        return 0.1 * torch.randn(2, 1, 2 * 3840)


class Diary(Callback):
    """The batches of a run, its weights when it began and after each step.

    Args:
        stop_after, crash_after: the step after which the run is stopped in order, or crashes.
        wait_after: the step after which ten minutes pass on `clock`.
    """

    def __init__(self, stop_after=None, crash_after=None, wait_after=None, clock=None):
        self.stop_after, self.crash_after, self.wait_after, self.clock = stop_after, crash_after, wait_after, clock
        self.batches, self.weights = [], []

    def on_train_start(self, trainer, module):
        self.weights.append(values_of(module))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        self.batches.append(batch)
        self.weights.append(values_of(module))
        trainer.should_stop = trainer.global_step == self.stop_after
        if trainer.global_step == self.wait_after:
            self.clock.minutes += 10
        if trainer.global_step == self.crash_after:
            raise InterruptedError


def values_of(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


@pytest.fixture
def clock(monkeypatch):
    """The clock by which checkpoints are written: it stands still but for whoever adds to its `minutes`."""
    clock = SimpleNamespace(minutes=0)
    monkeypatch.setattr(model_checkpoint, "time", SimpleNamespace(monotonic=lambda: 60.0 * clock.minutes))
    return clock


def train(folder, max_steps, diary=None):
    """(what `fit` left in the model, diary) of one call of a training script."""
    torch.manual_seed(0)
    vae = CausalAudioVAE(latent_channels=4, num_mels=20, encoder_dim=8, encoder_depth=1, decoder_dim=8, decoder_depth=1)
    training = VAETraining(vae, AudioReconstructionLoss(fft_sizes=(256, 1024)), 1e-2, 1e-2, max_steps, latent_noise=0.1)
    diary = diary or Diary()
    fit(build_trainer(folder, max_steps, callbacks=[diary]), folder, training, Noises())
    return values_of(training), diary


def test_a_batch_depends_on_seed_step_and_process_alone():
    batches = Noises(seed=5)
    torch.manual_seed(1)
    expected = batches[3, 1]
    following = torch.rand(4)
    torch.manual_seed(2)
    assert torch.equal(batches[3, 1], expected)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(4), following)
    others = [batches[3, 0], batches[4, 1], batches[1, 3], Noises(seed=6)[3, 1], Noises(seed=5 + 2**32)[3, 1]]
    assert not any(torch.equal(other, expected) for other in others)


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ValueError, match="seed must be 0 or more; got -1"):
        Noises(seed=-1)[0, 0]


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path):
    """Bit for bit: data, noise, optimiser, learning rate and average."""
    left, whole = train(tmp_path / "whole", 16)
    _, first = train(tmp_path / "parts", 16, Diary(stop_after=7))
    left_by_parts, second = train(tmp_path / "parts", 16)
    assert (len(first.batches), len(second.batches)) == (7, 9)
    for met, expected in zip(first.batches + second.batches, whole.batches, strict=True):
        assert torch.equal(met, expected)
    for reached, expected in zip(first.weights + second.weights[1:], whole.weights, strict=True):
        assert torch.equal(reached, expected)
    assert torch.equal(left_by_parts, left)


def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(tmp_path, clock):
    """Bit for bit, too: what it has trained since is trained again."""
    left, whole = train(tmp_path / "whole", 16)
    with pytest.raises(InterruptedError):
        train(tmp_path / "parts", 16, Diary(wait_after=7, crash_after=9, clock=clock))
    left_by_parts, second = train(tmp_path / "parts", 16)
    assert len(second.batches) == 9
    for met, expected in zip(second.batches, whole.batches[7:], strict=True):
        assert torch.equal(met, expected)
    assert torch.equal(left_by_parts, left)


def test_a_run_that_ended_leaves_its_last_step_though_it_wrote_checkpoints_before(tmp_path, clock):
    train(tmp_path, 6, Diary(wait_after=3, clock=clock))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == 6


def test_a_run_that_ended_continues_from_its_weights_and_leaves_its_average(tmp_path):
    left, ended = train(tmp_path, 16)
    average, decay = ended.weights[1], average_decay(16)
    for latest in ended.weights[2:]:
        average = decay * average + (1 - decay) * latest
    torch.testing.assert_close(left, average)
    assert not torch.allclose(left, ended.weights[-1])
    left, continued = train(tmp_path, 18)
    assert len(continued.batches) == 2
    assert torch.equal(continued.weights[0], ended.weights[-1])
    decay = average_decay(18)
    for latest in continued.weights[1:]:
        average = decay * average + (1 - decay) * latest
    torch.testing.assert_close(left, average)


def test_a_run_that_continues_keeps_what_was_logged_before(tmp_path):
    steps = []
    for max_steps in (20, 40):
        train(tmp_path, max_steps)
        logs = tmp_path.glob("metrics/*/metrics.csv")
        steps.append({int(row["step"]) for log in logs for row in csv.DictReader(log.open())})
    assert steps == [{19}, {19, 39}]
    assert (tmp_path / "metrics.png").exists()
