"""The peers under the certificate: as they are they break laws, wrapped they keep them."""

import certify_peers
from causal_vae import Certificate


def test_mimi_streams_only_once_it_is_wrapped(tmp_path, capsys):
    certify_peers.main(["--only", "Mimi decode", "MimiAudioVAE", "--out", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| law | Mimi decode | MimiAudioVAE |"
    invariance = next(line for line in lines if line.startswith("| chunk invariance |"))
    assert invariance.count("**no**") == 1 and invariance.index("**no**") < len(invariance) / 2
    assert "raise" not in invariance and "Error" not in invariance  # it breaks the law by what it computes
    stock, wrapped = (
        Certificate.from_json((tmp_path / f"{name}.json").read_text()) for name in ("mimi-decode", "mimiaudiovae")
    )
    assert "chunk invariance" in stock.broken and wrapped.passed
