"""From recordings to an agent that has learned what is in them: as a user would do it, in minutes."""

import learn_from_recordings
import pytest


@pytest.mark.slow
def test_an_agent_learns_a_phrase_and_a_voice_from_20_recordings(tmp_path):
    """The script asserts what it says, by conversation with voices that it was not trained on."""
    learn_from_recordings.main(tmp_path)
