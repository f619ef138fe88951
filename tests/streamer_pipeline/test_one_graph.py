"""Static shapes: every stage of the cycle is one graph, and nothing grows while a session lives."""

import pytest
import torch
from causal_vae import flatten_state
from streamer_pipeline import Performer, Thinker
from test_session import assert_units_equal
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline


@pytest.mark.parametrize("delay", [0, 1])
def test_every_stage_is_one_graph_and_says_the_same(delay):
    """fullgraph=True raises at a break; a second graph for the same stage would be a recompilation.

    A batch of another size has graphs of its own. No value is asked for inside a graph, so language takes a pass for
    each slot, and agrees with the passes that verify up to rounding.
    """
    torch._dynamo.reset()
    pipeline, graphs = tiny_pipeline(commit_delay=delay), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    units = random_units(5)
    session = open_session(pipeline, temperature=3.0)
    expected = [session.step(unit) for unit in units]
    pipeline.compile_stages(backend=count)
    session, num_stages = open_session(pipeline, temperature=3.0), len(Thinker.stages) + len(Performer.stages)
    found = [session.step(unit) for unit in units]
    assert len(graphs) <= num_stages
    assert_units_equal(found, expected, tolerance=1e-5)
    batch = pipeline.open_batch(2, height=SIZE[0], width=SIZE[1])
    for seed in range(2):
        batch.join(open_session(pipeline, seed=seed, temperature=3.0))
    found = [batch.step(dict.fromkeys(batch.sessions, unit))[batch.sessions[0]] for unit in units]
    assert len(graphs) <= 2 * num_stages
    assert_units_equal(found, expected, tolerance=1e-5)


def test_the_loop_allocates_no_state():
    """After the first unit every leaf keeps its shape, and the histories keep their memory."""
    session = open_session(tiny_pipeline())
    units = random_units(10)
    session.step(units[0])
    shapes = {name: leaf.shape for name, leaf in flatten_state(session.state).items()}
    places = {name: leaf.data_ptr() for name, leaf in flatten_state(session.state).items() if "keys" in name}
    for unit in units[1:]:
        session.step(unit)
    leaves = flatten_state(session.state)
    assert {name: leaf.shape for name, leaf in leaves.items()} == shapes
    assert {name: leaves[name].data_ptr() for name in places} == places and len(places) == 2


POLICIES = {
    "windows": {"context_window": 6, "response_window": 3},
    "full": {"context_window": None, "response_window": None},
    "long context": {"context_window": None, "response_window": 2},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_bytes_of_a_session_are_predicted_exactly(policy):
    pipeline = tiny_pipeline(**POLICIES[policy])
    size = {"height": SIZE[0], "width": SIZE[1], "capacity_units": 4}
    session = open_session(pipeline, capacity_units=4, prompt="it is red")
    for num_units, unit in enumerate(random_units(18)):
        assert session.nbytes() == pipeline.session_nbytes("it is red", num_units=num_units, **size)
        session.step(unit)
    grew = pipeline.session_nbytes(num_units=100, **size) > pipeline.session_nbytes(**size)
    assert grew == (policy != "windows")
