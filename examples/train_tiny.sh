#!/bin/sh
# From nothing to the bundled checkpoint and its score card. Interrupt it at any time: every step continues where it
# was, finished steps are skipped. THREADS (default 2) is used by each step.
set -eu
python="${1:-python}"
export OMP_NUM_THREADS="${THREADS:-2}"
# Large tensors are reused instead of returned to the system after every operation.
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456
run() {
    result="$1"
    shift
    [ -e "$result" ] || "$python" "$@" --num-threads "$OMP_NUM_THREADS"
}
audio=runs/audio_vae/audio_vae
video=runs/video_vae/video_vae
card=examples/cards/wan-streamer-tiny.md
run "$audio" examples/train_audio_vae.py --run runs/audio_vae
run "$video" examples/train_video_vae.py --run runs/video_vae --agent-share 1 --precision bf16-mixed
run runs/audio_decoder/audio_decoder examples/train_decoders.py --what audio --vae "$audio" --run runs/audio_decoder
run runs/users/dyads-0005950.safetensors examples/prepare_dyads.py --out runs/users --num-dyads 6000
run runs/val/dyads-1000150.safetensors examples/prepare_dyads.py --out runs/val --first-seed 1000000 --num-dyads 192 \
    --audio-vae "$audio" --video-vae "$video"
run runs/dyads/dyads-0202350.safetensors examples/prepare_dyads.py --out runs/dyads --first-seed 200000 --num-dyads 2400 \
    --audio-vae "$audio" --video-vae "$video"
run runs/eyes/video_encoder examples/train_senses.py --sense eyes --users runs/users --val-dyads runs/val --run runs/eyes
run runs/ears/audio_encoder examples/train_senses.py --sense ears --users runs/users --val-dyads runs/val --run runs/ears
data="--dyads runs/dyads --users runs/users --val-dyads runs/val"
# shellcheck disable=SC2086
run runs/stage1/streamer examples/train_streamer.py --stage 1 --run runs/stage1 $data \
    --audio-encoder runs/ears/audio_encoder --video-encoder runs/eyes/video_encoder
run runs/stage2/streamer examples/train_streamer.py --stage 2 --run runs/stage2 --start-from runs/stage1 $data
run runs/stage3/streamer examples/train_streamer.py --stage 3 --run runs/stage3 --start-from runs/stage2 $data
"$python" examples/assemble_checkpoint.py --streamer-run runs/stage3 --num-inference-steps 2 \
    --audio-decoder runs/audio_decoder/audio_decoder --card "$card"
"$python" examples/build_world.py --split test --num-dyads 216 --dyads-per-shard 72 --out runs/world
"$(dirname "$python")/wan-streamer" eval runs/wan-streamer-tiny --dataset runs/world --out runs/score
