#!/bin/sh
# From nothing to the bundled checkpoint. Every step continues where it was interrupted; finished steps are skipped.
set -eu
python="${1:-python}"
run() {
    result="$1"
    shift
    [ -e "$result" ] || OMP_NUM_THREADS="${THREADS:-2}" "$python" "$@" --num-threads "${THREADS:-2}"
}
run runs/audio_vae/audio_vae examples/train_audio_vae.py --run runs/audio_vae
run runs/video_vae/video_vae examples/train_video_vae.py --run runs/video_vae
run runs/decoders/audio_decoder examples/train_decoders.py --what audio --vae runs/audio_vae/audio_vae --run runs/decoders
run runs/decoders/video_decoder examples/train_decoders.py --what video --vae runs/video_vae/video_vae --run runs/decoders
run runs/dyads/dyads-0000750.safetensors examples/prepare_dyads.py \
    --audio-vae runs/audio_vae/audio_vae --video-vae runs/video_vae/video_vae --out runs/dyads
run runs/streamer/streamer examples/train_streamer.py --dyads runs/dyads --run runs/streamer
"$python" examples/assemble_checkpoint.py --out runs/wan-streamer-tiny
