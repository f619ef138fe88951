"""The rows that need only two tracks and words, for every data set of dyads that holds what they are measured on."""

from __future__ import annotations

from .scorecard import Aim, Row, percent_row

ROWS = (
    Row("dialogue.taken", "turns taken where the recorded agent takes them", "%"),
    Row("dialogue.latency_median", "onset after the user's last word, median", "ms", 0),
    Row("dialogue.latency_p90", "onset after the user's last word, 90th percentile", "ms", 0),
    Row("dialogue.pause_taken", "speaks in a pause of the user (low is good)", "%"),
    Row("dialogue.overlap", "share of the time in which both speak", "%"),
    Row("dialogue.backchannels", "short sounds while the user speaks, per minute", "", 2),
    Row("dialogue.stops", "stops within a second when interrupted", "%"),
    Row("dialogue.stop_latency", "goes on after an interruption begins for, median", "ms", 0),
    Row("dialogue.speaks_on", "speaks on through a back-channel", "%"),
    Row("speech.wer", "word error rate of its sound against its text (low is good)", "%"),
    Row("hearing.wer", "word error rate of the user's words as it makes them out (low is good)", "%"),
    Row("speech.level", "level of what sounds, mean (dBFS)", "dB", 1),
    percent_row("lips.in_step", "clips in step within one frame", low=0.95),
    Row("lips.zero_lag", "r of mouth and sound, no lag", "", 2, Aim(low=0.7)),
    Row("listening.brows", "brows follow the user's speech: p", "", 3, Aim(high=0.01)),
    Row("listening.motion", "motion follows its end: p", "", 3, Aim(high=0.01)),
    Row("idle.blinks", "blinks, relative to recordings", "x", 2, Aim(low=0.7, high=1.3)),
    Row("idle.motion", "silent motion, relative to recordings", "x", 2, Aim(low=0.7, high=1.3)),
    Row("face.found", "frames in which a face is found", "%"),
    Row("face.kept", "identity, distance to the first second (low is good)", "", 2),
    Row("face.recorded", "identity, distance to the recorded agent (low is good)", "", 2),
    Row("endurance.level", "level of speech, largest drift", "dB", 1, Aim(high=3)),
    percent_row("endurance.latent_mean", "latent mean, largest drift in stds", high=0.10),
    percent_row("endurance.latent_std", "latent std, largest drift", high=0.10),
    percent_row("endurance.face", "distance of the silent face, drift", high=0.10),
    Row("endurance.identity", "identity, distance to the first minute, largest drift", "", 2),
    Row("cost.passes", "solver passes per unit", "", 1),
    Row("media.psnr", "picture through the VAE, PSNR", "dB", 1),
    Row("media.ssim", "picture through the VAE, SSIM", "", 3),
    Row("media.mel", "sound through the VAE, log-mel distance", "", 3),
    Row("media.pesq", "sound through the VAE, PESQ (wide band)", "", 2),
    Row("media.stoi", "sound through the VAE, STOI", "", 3),
)
