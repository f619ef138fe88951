"""A batch is a place: sessions beside each other get what they would get alone, and hold what was predicted."""

import pytest
import torch
from harness import memory_growth
from streamer_pipeline import StreamerPipeline, StreamerSession, UserUnit
from test_session import POLICIES, Fragile, assert_units_equal, run
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def open_batch(pipeline, size, **options):
    return pipeline.open_batch(size, height=SIZE[0], width=SIZE[1], **options)


@pytest.mark.parametrize("policy", POLICIES)
def test_sessions_of_different_age_batch_as_if_alone(policy):
    """Full histories of four lengths, in a batch that is shorter than the longest, grow to one size."""
    pipeline = tiny_pipeline(**POLICIES[policy])
    together = [open_session(pipeline, seed=i, capacity_units=4, temperature=i % 2) for i in range(4)]
    for session, age in zip(together, (0, 3, 9, 21), strict=True):
        run(session, random_units(age, seed=age))
    alone, batch = [session.fork() for session in together], open_batch(pipeline, 4, capacity_units=4)
    for session in together:
        batch.join(session)
    for step in range(8):
        units = {session: random_units(8, seed=100 + i)[step] for i, session in enumerate(together)}
        answers = batch.step(units)
        single = [session.step(unit) for session, unit in zip(alone, units.values(), strict=True)]
        assert_units_equal(list(answers.values()), single, tolerance=1e-5)


@pytest.mark.parametrize("policy", ["windows", "full"])
def test_joining_leaving_and_pausing_leave_the_others_streams_bit_for_bit(policy):
    pipeline = tiny_pipeline(**POLICIES[policy])
    units = random_units(16)

    def hear(joins, leaves, pauses):
        """The first session's answers while others come (place by step), go, and are not always due."""
        batch, others, answers = open_batch(pipeline, 3, capacity_units=32), {}, []
        first = open_session(pipeline, seed=1, temperature=3.0, capacity_units=32)
        batch.join(first)
        for step, unit in enumerate(units):
            if step in joins:
                others[joins[step]] = open_session(pipeline, seed=joins[step], temperature=30.0, capacity_units=32)
                batch.join(others[joins[step]])
            if step in leaves:
                batch.leave(others.pop(leaves[step]))
            due = {} if step in pauses else {other: random_units(16, seed=9)[step] for other in others.values()}
            answers.append(batch.step({first: unit} | due)[first])
        return answers

    alone = hear({}, {}, ())
    assert_units_equal(hear({2: 20, 5: 30}, {9: 20, 12: 30}, (6, 7)), alone)
    assert_units_equal(hear({0: 20, 1: 30, 13: 40}, {11: 30}, ()), alone)


def test_who_says_nothing_is_not_touched_by_the_revisions_of_who_speaks():
    """The bundled agent in silence takes its draft as it is, while its neighbour says something new in every unit."""
    pipeline = StreamerPipeline.from_pretrained()
    silence = UserUnit(torch.zeros(1, 3840), torch.zeros(3, 4, *SIZE))

    def hear(has_neighbour):
        batch, session, answers = open_batch(pipeline, 2), open_session(pipeline, seed=1), []
        batch.join(session)
        batch.join(open_session(pipeline, seed=2, temperature=30.0))
        for _ in range(6):
            answers.append(batch.step(dict.fromkeys(batch.sessions if has_neighbour else [session], silence))[session])
        return answers

    assert_units_equal(hear(True), hear(False))


def test_who_pauses_goes_on_as_if_nothing_had_been(pipeline):
    batch, units = open_batch(pipeline, 2), random_units(12)
    busy, patient = (open_session(pipeline, seed=seed) for seed in (1, 2))
    expected = run(patient.fork(), units[:4])
    for session in (busy, patient):
        batch.join(session)
    found = []
    for step, unit in enumerate(units):
        due = {busy: unit} | ({patient: units[step // 3]} if step % 3 == 0 else {})
        answers = batch.step(due)
        found += [answers[patient]] if patient in answers else []
    assert_units_equal(found, expected, tolerance=1e-5)


def test_a_session_in_a_batch_is_a_session(tmp_path, pipeline):
    """It steps, forks, saves and leaves; what it says is what it would have said."""
    units = random_units(10)
    expected = run(open_session(pipeline, seed=3), units)
    batch, session = open_batch(pipeline, 2), open_session(pipeline, seed=3)
    batch.join(session)
    batch.join(open_session(pipeline, seed=4))
    found = run(session, units[:4])
    fork, nbytes = session.fork(), session.nbytes()
    session.save(tmp_path / "session")
    found += run(session, units[4:6])
    batch.leave(session)
    assert session.batch is not batch and session.nbytes() == nbytes and batch.sessions[0].options.seed == 4
    found += run(session, units[6:])
    assert_units_equal(found, expected, tolerance=1e-5)
    assert_units_equal(run(fork, units[4:]), expected[4:], tolerance=1e-5)
    continued = StreamerSession.load(tmp_path / "session", pipeline)
    assert_units_equal(run(continued, units[4:]), expected[4:], tolerance=1e-5)


def test_a_step_that_raises_costs_no_session_anything():
    pipeline, expected = tiny_pipeline(), []
    for seed in range(2):
        expected.append(run(open_session(tiny_pipeline(), seed=seed), random_units(8, seed=seed)))
    pipeline.scheduler = solver = Fragile()
    batch, sessions = open_batch(pipeline, 2), [open_session(pipeline, seed=seed) for seed in range(2)]
    for session in sessions:
        batch.join(session)
    found = [[], []]
    for step in range(8):
        units = {session: random_units(8, seed=i)[step] for i, session in enumerate(sessions)}
        solver.gives_up = True
        with pytest.raises(ArithmeticError):
            batch.step(units)
        with pytest.raises(ArithmeticError):
            sessions[1].step(units[sessions[1]])
        solver.gives_up = False
        for row, answer in enumerate(batch.step(units).values()):
            found[row].append(answer)
    for ours, theirs in zip(found, expected, strict=True):
        assert_units_equal(ours, theirs, tolerance=1e-5)


def test_who_does_not_fit_is_refused_and_nothing_changes(pipeline):
    batch, session = open_batch(pipeline, 1), open_session(pipeline)
    wrong = {
        "different pipelines": open_session(tiny_pipeline()),
        "height and width": pipeline.open_session(height=16, width=32),
        "num_inference_steps": open_session(pipeline, num_inference_steps=3),
    }
    for sentence, other in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            batch.join(other)
        assert other.batch is not batch and batch.sessions == []
    batch.join(session)
    with pytest.raises(ValueError, match="already"):
        batch.join(session)
    with pytest.raises(ValueError, match="places of this batch are taken"):
        batch.join(open_session(pipeline))
    with pytest.raises(ValueError, match="no place in this batch"):
        batch.step({open_session(pipeline): random_units(1)[0]})
    with pytest.raises(ValueError, match="at least 1"):
        open_batch(pipeline, 0)
    assert batch.step({}) == {}


def test_addresses_stay_while_nothing_grows(pipeline):
    batch, session = open_batch(pipeline, 2), open_session(pipeline)
    batch.join(session)

    def places():
        return [leaf.data_ptr() for leaf in leaves(session.state)]

    before = places()
    run(session, random_units(12))
    batch.join(open_session(pipeline))
    run(session, random_units(2))
    assert places() == before


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [leaf for child in state.values() for leaf in leaves(child)]


def test_peak_memory_is_what_sessions_were_said_to_hold():
    """Of four sessions, with histories far larger than a pass: within 5 % of the prediction, also in a step."""
    shape = {"num_hidden_layers": 8, "num_key_value_heads": 4, "head_dim": 24, "hidden_size": 96}
    pipeline = tiny_pipeline(context_window=None, response_window=None, **shape)
    options = {"height": SIZE[0], "width": SIZE[1], "capacity_units": 256}
    predicted = 4 * pipeline.session_nbytes(**options)
    batch = pipeline.open_batch(4, **options)
    assert sum(leaf.nbytes for leaf in leaves(batch.state)) <= 1.001 * predicted
    sessions = [pipeline.open_session(seed=seed, **options) for seed in range(4)]
    for session in sessions:
        batch.join(session)
    unit = random_units(1)[0]
    batch.step(dict.fromkeys(sessions, unit))
    assert memory_growth(lambda: batch.step(dict.fromkeys(sessions, unit)))[0] < 0.05 * predicted
    assert memory_growth(lambda: batch.step({sessions[2]: unit}))[0] < 0.05 * predicted
