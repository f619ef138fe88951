"""The duplex world as Full-Duplex-Bench: its recorded agent is perfect there, and a checkpoint is measured on it."""

import json
from pathlib import Path

import export_benchmark
import pytest
from duplex_world import AgentVoice
from duplex_world.benchmark_folders import benchmark_samples
from streamer_pipeline.cli import app
from streamer_pipeline.evaluation.full_duplex_bench.command import moments_of
from streamer_pipeline.evaluation.full_duplex_bench.layout import event, find_samples
from streamer_pipeline.evaluation.full_duplex_bench.rows import Output, scores
from streamer_pipeline.evaluation.sound import bursts, seconds
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

NUM = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    export_benchmark.main(folder, NUM)
    return folder


def test_the_recorded_agent_is_perfect(folder):
    outputs = []
    made = {sample_id(s.version, s.subset, i % NUM): s for i, s in enumerate(benchmark_samples(NUM, AgentVoice()))}
    for sample in find_samples(folder):
        recorded = made[sample_id(sample.version, sample.subset, int(sample.folder.name) - 1)]
        segments = [(seconds(first), seconds(end)) for first, end in bursts(recorded.agent)]
        outputs.append(Output(sample, moments_of(sample), recorded.words, segments, len(recorded.agent) / 24_000))
    assert len(outputs) == len(made) == 7 * NUM
    found = {key: score.value for key, score in scores(outputs, {}).items()}
    assert not any(output.words for output in outputs if output.sample.subset == "synthetic_pause_handling")
    assert found["fdb.synthetic_pause_tor"] == 0 and found["fdb.turn_tor"] == found["fdb.interruption_tor"] == 1
    assert 160 <= found["fdb.turn_latency"] <= 480
    assert found["fdb15.user_interruption_stop"] < 640 and found["fdb15.user_interruption_responds"] == 1
    for subset in ("user_backchannel", "talking_to_other", "background_speech"):
        lasts = [o.moments[1] - o.moments[0] for o in outputs if o.sample.subset == subset]
        assert found[f"fdb15.{subset}_stop"] > 0.6 * 1000 * sum(lasts) / NUM, subset  # it counts on


def sample_id(version: str, subset: str, index: int) -> str:
    return f"{version}/{subset}/{index}"


def test_what_happens_is_where_the_inputs_differ(folder):
    for sample in find_samples(folder):
        if sample.version == "v1_5":
            annotated = event(sample)
            (sample.folder / "metadata.json").rename(sample.folder / "away.json")
            start, end = event(sample)
            (sample.folder / "away.json").rename(sample.folder / "metadata.json")
            assert annotated[0] - 0.01 <= start < end <= annotated[1] + 0.01
            assert end - start > 0.5 * (annotated[1] - annotated[0])


def test_a_checkpoint_is_measured_on_it(tmp_path, folder):
    tiny_pipeline().save_pretrained(tmp_path / "checkpoint")
    arguments = [tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", folder, "--per-scenario", 1]
    result = CliRunner().invoke(app, ["eval", *map(str, arguments), "--out", str(tmp_path / "card"), "--steps", "1"])
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "card" / "score.json").read_text())
    assert card["run"]["samples"] == 7 and "icc_backchannel" in card["absent"]["fdb.backchannel_tor"]
    assert {"fdb.synthetic_pause_tor", "fdb.turn_tor", "fdb15.user_interruption_responds"} <= card["rows"].keys()
    written = sorted(path.relative_to(folder).parts[1] for path in folder.rglob("output.wav"))
    assert len(written) == len(set(written)) == 7 and len([*Path(folder).rglob("clean_output.json")]) == 4
