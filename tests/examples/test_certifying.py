"""The peers under the certificate: as they are they break laws, wrapped they keep them."""

import certify_mimi
import certify_wan
import pytest
from causal_vae import Certificate


@pytest.mark.parametrize(
    ("script", "stock", "wrapped"),
    [(certify_mimi, "Mimi decode", "MimiAudioVAE"), (certify_wan, "Wan encode", "WanVideoVAE")],
)
def test_a_peer_streams_only_once_it_is_wrapped(script, stock, wrapped, tmp_path, capsys):
    script.main(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    columns = [cell.strip() for cell in lines[0].split("|")]
    invariance = next(line for line in lines if line.startswith("| chunk invariance |")).split("|")
    assert "**no**" in invariance[columns.index(stock)] and "**no**" not in invariance[columns.index(wrapped)]
    assert "raises" not in invariance[columns.index(stock)]  # it breaks the law by what it computes
    found, kept = (
        Certificate.from_json((tmp_path / f"{name.replace(' ', '-').lower()}.json").read_text())
        for name in (stock, wrapped)
    )
    assert "chunk invariance" in found.broken and kept.passed
