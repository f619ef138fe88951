#!/bin/sh
# From nothing to the bundled checkpoint. Every step continues where it was interrupted; finished steps are skipped.
set -eu
python="${1:-python}"
run() {
    result="$1"
    shift
    [ -e "$result" ] || OMP_NUM_THREADS="${THREADS:-2}" "$python" "$@" --num-threads "${THREADS:-2}"
}
audio=runs/audio_vae/audio_vae
video=runs/video_vae/video_vae
run "$audio" examples/train_audio_vae.py --run runs/audio_vae
run "$video" examples/train_video_vae.py --run runs/video_vae --agent-share 1
run runs/audio_decoder/audio_decoder examples/train_decoders.py --what audio --vae "$audio" --run runs/audio_decoder
run runs/dyads/dyads-0001350.safetensors examples/prepare_dyads.py --audio-vae "$audio" --video-vae "$video" --num-dyads 1400
run runs/streamer/streamer examples/train_streamer.py
"$python" examples/assemble_checkpoint.py --audio-decoder runs/audio_decoder/audio_decoder --card examples/cards/wan-streamer-tiny.md
"$python" examples/score_vaes.py --checkpoint runs/wan-streamer-tiny
"$python" examples/score_first_light.py --checkpoint runs/wan-streamer-tiny
