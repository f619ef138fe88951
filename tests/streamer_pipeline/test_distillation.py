"""Stage 3: few steps that land where the teacher's many do, and a student that learns on its own history."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from causal_vae.training import average_decay, build_trainer
from lightning.pytorch.callbacks import Callback
from streamer_core import FlowMatchScheduler
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.distillation import (
    Given,
    SelfForcing,
    Teacher,
    TrajectoryDistillation,
    clean_samples,
    matching_loss,
    predict,
    roll_out,
    trajectory,
)
from streamer_pipeline.training.modules import DuplexTraining
from tiny_parts import tiny_pipeline
from torch.utils.data import DataLoader

NUM_UNITS = 7  # more than the response window, so that the rings wrap


def stage2(**streamer_fields) -> DuplexTraining:
    parts = tiny_pipeline(**streamer_fields)
    return DuplexTraining(parts.streamer, parts.audio_encoder, parts.video_encoder, 1e-3, 10)


def batch_for(training: DuplexTraining, num_rows: int = 2) -> DuplexBatch:
    c, generator = training.streamer.config, torch.Generator().manual_seed(1)
    looks = training.video_encoder.forward_frames(torch.zeros(1, 3, 12, 16, 32))[0].shape[1] // c.user_video_tokens

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(c.vocab_size, (num_rows, *shape), generator=generator)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(num_rows, *shape, generator=generator)

    return DuplexBatch(
        prompt_ids=ids(3),
        user_audio=0.1 * values(1, NUM_UNITS * 3840),
        user_frames=0.1 * values(3, NUM_UNITS * 12 // looks, 16, 32),
        user_text=ids(NUM_UNITS, c.user_text_slots),
        state=torch.tensor(c.state_token_ids)[ids(NUM_UNITS) % 2],
        agent_text=ids(NUM_UNITS, c.agent_text_slots),
        valid=torch.arange(NUM_UNITS).expand(num_rows, -1) > 0,
        audio_latents=values(c.audio_latent_channels, NUM_UNITS * c.audio_latents_per_unit),
        video_latents=values(c.video_latent_channels, NUM_UNITS, c.video_latent_height, c.video_latent_width),
        user_heard=ids(NUM_UNITS, c.agent_text_slots),
    )


def distil(cls, teacher: DuplexTraining | None = None, **options):
    teacher = teacher or stage2()
    options = {"teacher_steps": 4, "validation_names": ("duplex",)} | options
    return cls(deepcopy(teacher.streamer), teacher, 3e-3, 20, **options)


def values_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


@pytest.mark.parametrize(("delay", "has_reference"), [(0, False), (1, False), (0, True)])
def test_the_parallel_pass_repeats_the_rollouts_own_steps(delay, has_reference):
    """With a far clock, rings that wrap, thinker and performer in turn or overlapping, and a face in the prompt."""
    module = distil(SelfForcing, stage2(commit_delay=delay), num_steps=2)
    batch = batch_for(module.teacher.stage2)
    clean = module.teacher.perceive(batch)
    reference = None
    if has_reference:
        latents = {"reference_audio": batch.audio_latents[:, :, :8], "reference_video": batch.video_latents[:, :, :2]}
        reference = batch._replace(**latents).reference(module.streamer.config)
    given = Given(clean, batch.prompt_ids, torch.tensor([0, 900]), reference)
    rollout = roll_out(module.streamer, given, module.noise(clean, 1), 2)
    given = given._replace(history=replace(clean, **rollout.latents))
    sigma = FlowMatchScheduler.noise_levels(2)[:2, None].expand(2, 2, NUM_UNITS)  # every step as one copy
    with torch.no_grad():
        velocities = predict(module.streamer, rollout.inputs, sigma, given)[1]
    samples = clean_samples(rollout.inputs, velocities, sigma)
    for name, made in rollout.latents.items():
        torch.testing.assert_close(samples[name][:, 1], made, atol=1e-4, rtol=1e-4)
        middle = (rollout.inputs[name][:, 0] + samples[name][:, 0]) / 2
        torch.testing.assert_close(middle, rollout.inputs[name][:, 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_student_takes_the_steps_of_the_scheduler_that_serves_it(shift):
    """And each phase trains on these very noise levels."""
    module = distil(TrajectoryDistillation, num_steps=2, shift=shift)
    batch = batch_for(module.teacher.stage2)
    clean = module.teacher.perceive(batch)
    given = Given(clean, batch.prompt_ids, torch.zeros(2, dtype=torch.int64))
    noise = module.noise(clean, 1)
    with torch.no_grad():
        served = FlowMatchScheduler(shift=shift).solve(module.student_velocity(given), noise, 2)
        *_, reached = module.student_trajectory(noise, given)
        rollout = roll_out(module.streamer, given, noise, 2, shift)
        sigma = FlowMatchScheduler.noise_levels(2, shift=shift)[:2, None].expand(2, 2, NUM_UNITS)
        velocities = predict(
            module.streamer, rollout.inputs, sigma, given._replace(history=replace(clean, **rollout.latents))
        )[1]
    for name, z in served.items():
        torch.testing.assert_close(reached[name], z)
        second = FlowMatchScheduler.euler_step(rollout.inputs, velocities, sigma[0, 0, 0], sigma[0, 1, 0])[name][:, 0]
        torch.testing.assert_close(second, rollout.inputs[name][:, 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_teacher_itself_with_as_many_steps_has_nothing_to_learn(shift):
    teacher = stage2()
    batch = batch_for(teacher)
    modules = [
        distil(TrajectoryDistillation, teacher, num_steps=num_steps, guidance=guidance, shift=shift)
        for num_steps, guidance in ((4, 1.0), (2, 1.0), (4, 3.0))
    ]
    for found, names in (
        ([module.losses(batch) for module in modules], ("audio", "video")),
        ([module.gaps(batch, seed=0) for module in modules], ("audio_gap", "video_gap")),
    ):
        for name in names:
            same, fewer, guided = (float(terms[name].mean().detach()) for terms in found)
            assert same < 1e-3
            assert min(fewer, guided) > 100 * same


def test_the_gap_is_the_root_mean_square_and_the_same_for_the_same_seed():
    module = distil(TrajectoryDistillation)
    batch = batch_for(module.teacher.stage2)
    gap = module.gaps(batch, seed=3)["video_gap"].mean()
    assert module.gaps(batch, seed=3)["video_gap"].mean() == gap
    assert module.gaps(batch, seed=4)["video_gap"].mean() != gap
    clean = module.teacher.perceive(batch)
    given = Given(clean, batch.prompt_ids, torch.zeros(2, dtype=torch.int64))
    noise = module.noise(clean, 1, torch.Generator().manual_seed(3))
    with torch.no_grad():
        *_, reached = trajectory(module.student_velocity(given), noise, 2)
    difference = (reached["video"] - module.teacher.trajectory(noise, given)[-1]["video"])[:, 0][batch.valid]
    torch.testing.assert_close(gap, difference.square().mean().sqrt())


def test_student_and_fake_score_learn_from_their_own_terms_alone_and_at_their_own_rates():
    module = distil(SelfForcing, fake_learning_rate=0.5)
    terms = module.losses(batch_for(module.teacher.stage2))
    for name, term in terms.items():
        module.zero_grad()
        term.mean().backward(retain_graph=True)
        learns = [any(p.grad is not None for p in model.parameters()) for model in (module.streamer, module.fake)]
        assert learns == ([False, True] if name.startswith("fake_") else [True, False])
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == [3e-3, 0.5]
    for group, model in zip(groups, (module.streamer, module.fake), strict=True):
        assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}


def test_a_large_gradient_of_the_fake_score_does_not_shorten_the_students():
    module = distil(SelfForcing)
    for model, size in ((module.streamer, 1e-4), (module.fake, 1e4)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size)
    module.configure_gradient_clipping(None, 1.0)
    student, fake = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (module.streamer, module.fake))
    assert (student == 1e-4).all()
    torch.testing.assert_close(fake.norm(), torch.tensor(1.0), rtol=1e-4, atol=0.0)


def test_guidance_is_a_line_from_wordless_through_conditional():
    training = stage2()
    pad = training.streamer.config.pad_token_id
    teachers = [Teacher(training, guidance, 2) for guidance in (0.0, 1.0, 2.0)]
    batch = batch_for(training)
    clean = teachers[0].perceive(batch)
    given = Given(clean, batch.prompt_ids, torch.zeros(2, dtype=torch.int64))
    noisy = {"audio": torch.randn_like(clean.audio)[:, None], "video": torch.randn_like(clean.video)[:, None]}
    sigma = torch.full((2, 1, NUM_UNITS), 0.7)
    untold, told, guided = (teacher.velocities(noisy, sigma, given) for teacher in teachers)
    conditional = predict(training.streamer, noisy, sigma, given)[1]
    silence = {"state": torch.full_like(clean.state, pad), "agent_text": torch.full_like(clean.agent_text, pad)}
    wordless = replace(clean, **silence)
    dropped = predict(training.streamer, noisy, sigma, given._replace(history=wordless))[1]
    for name in noisy:
        assert torch.equal(told[name], conditional[name])
        torch.testing.assert_close(untold[name], dropped[name])
        torch.testing.assert_close(guided[name], 2 * told[name] - untold[name])


def test_matching_moves_samples_from_fake_towards_real_and_rests_where_they_agree():
    samples = torch.randn(2, 1, 3, 4, 5, requires_grad=True)
    real, fake = torch.randn(2, 2, 2, 3, 4, 5)
    valid = torch.tensor([[True, True, False]] * 2)
    matching_loss(samples, real, real, valid).mean().backward()
    assert not samples.grad.any()
    matching_loss(samples, real, fake, valid).mean().backward()
    assert not samples.grad[:, :, 2].any()
    scale = (samples.detach() - real).abs().mean(dim=(-2, -1), keepdim=True)
    expected = ((fake - real) / scale).mean(dim=1, keepdim=True) / (2 * 2 * 4 * 5)
    torch.testing.assert_close(samples.grad[:, :, :2], expected[:, :, :2])


def test_a_picture_that_is_not_in_the_data_is_not_matched():
    for cls in (TrajectoryDistillation, SelfForcing):
        module = distil(cls)
        batch = batch_for(module.teacher.stage2)
        terms = module.losses(batch._replace(video_latents=None))
        assert terms["video"].mean() == 0 and terms["audio"].mean() > 0


@pytest.mark.parametrize("cls", [TrajectoryDistillation, SelfForcing])
def test_units_in_which_nobody_was_filmed_count_for_sound_and_words_alone(cls):
    """In training and in validation; of the picture they count no more than units that do not count at all."""
    module = distil(cls)
    module.log = module.log_dict = lambda *_, **__: None
    batch = batch_for(module.teacher.stage2)
    filmed = torch.arange(NUM_UNITS).expand(2, -1) % 3 != torch.tensor([[0], [1]])
    never = torch.zeros_like(filmed)

    def terms(batch):
        torch.manual_seed(0)
        return module.losses(batch) | module.gaps(batch, seed=0)

    whole, partly, unfilmed = (terms(batch._replace(video_valid=valid)) for valid in (None, filmed, never))
    expected = terms(batch._replace(valid=batch.valid & filmed))
    for name in whole:
        of_picture = "video" in name
        same = expected if of_picture else whole
        torch.testing.assert_close(partly[name].mean(), same[name].mean())
        assert bool(unfilmed[name].mean()) != of_picture
        assert bool(unfilmed[name].weight) != of_picture
    assert partly["video"].mean() != whole["video"].mean()
    torch.manual_seed(0)
    module.training_step(batch._replace(video_valid=never), 0).backward()
    assert not module.streamer.video_out.weight.grad.any() and module.streamer.audio_out.weight.grad.any()


@pytest.mark.parametrize("cls", [TrajectoryDistillation, SelfForcing])
def test_language_alone_trains_the_words_as_stage_2_does(cls):
    module = distil(cls)
    module.log = module.log_dict = lambda *_, **__: None
    batch = batch_for(module.teacher.stage2)._replace(audio_latents=None, video_latents=None)
    batch.agent_text[:, ::2] = module.streamer.config.pad_token_id
    torch.manual_seed(0)
    loss = module.training_step(batch, 0)
    torch.manual_seed(0)
    expected, _ = module.teacher.stage2.losses(batch)
    torch.testing.assert_close(loss, expected["text"].mean() + expected["heard"].mean())
    loss.backward()
    assert module.streamer.lm_head.weight.grad.any() and module.streamer.video_out.weight.grad is None


def test_uneven_steps_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        distil(TrajectoryDistillation, num_steps=3)


class Weights(Callback):
    """The trained weights after each step."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.after.append(values_of(module))


@pytest.mark.parametrize("cls", [TrajectoryDistillation, SelfForcing])
def test_fit_trains_the_student_and_leaves_its_average(cls, tmp_path):
    """In mixed precision. Teacher and encoders stay bit for bit: not trained, averaged or stored."""
    teacher = stage2()
    module, batch, weights = distil(cls, teacher), batch_for(teacher), Weights()
    frozen, student = values_of(teacher), values_of(module.streamer)
    trainer = build_trainer(tmp_path, 12, validate_every=12, callbacks=[weights], precision="bf16-mixed")
    loader = DataLoader([batch] * 12, batch_size=None)
    trainer.fit(module, loader, loader)
    assert torch.equal(values_of(teacher), frozen)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    average, decay = weights.after[0], average_decay(12)
    for latest in weights.after[1:]:
        average = decay * average + (1 - decay) * latest
    torch.testing.assert_close(values_of(module), average)
    assert not torch.equal(values_of(module.streamer), student)
    assert {"val/duplex_audio_gap", "val/duplex_video_gap", "val/duplex_text"} <= trainer.callback_metrics.keys()
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    trained = {"streamer", "fake"} if cls is SelfForcing else {"streamer"}
    assert {name.split(".")[0] for name in stored} == trained


@pytest.mark.parametrize("cls", [TrajectoryDistillation, SelfForcing])
def test_mixed_precision_hides_no_weight_from_its_gradient(cls):
    """Autocast must not hand the weights that a pass without gradient has cast to the pass with gradient."""
    module = distil(cls)
    batch, gradients = batch_for(module.teacher.stage2), []
    for mixed in (False, True):
        torch.manual_seed(0)
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = torch.stack([term.mean() for term in module.losses(batch).values()]).sum()
        loss.backward()
        trained = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([gradient.flatten() for gradient in trained]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_the_gap_to_the_teacher_closes():
    torch.manual_seed(0)
    module = distil(TrajectoryDistillation, guidance=2.0)
    batch = batch_for(module.teacher.stage2)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        terms = {name: term.mean() for name, term in module.losses(batch).items()}
        losses.append(float(terms["audio"] + terms["video"]))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
