#!/bin/sh
# From nothing to a checkpoint and its score card, all below RUNS (default: runs). Interrupt it at any time: every step
# continues where it was, finished steps are skipped. THREADS (default 2) is used by each step. SCALE divides all
# numbers of dyads and steps: SCALE=200 walks the whole way in minutes, to see that it is open. How many seconds each
# step took, over all interruptions, is in RUNS/wall-clock.tsv.
set -eu
python="${1:-python}"
runs="${RUNS:-runs}"
scale="${SCALE:-1}"
export OMP_NUM_THREADS="${THREADS:-2}"
# Large tensors are reused instead of returned to the system after every operation.
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456
mkdir -p "$runs"

step=""
note() {
    [ -z "$step" ] || printf '%s\t%s\n' "$step" $(($(date +%s) - begin)) >>"$runs/wall-clock.tsv"
    step=""
}
trap note EXIT
trap 'exit 130' INT TERM
run() { # what it makes, the command
    [ -e "$1" ] && return
    step="$1" begin="$(date +%s)"
    shift
    "$@"
    note
}
learn() { # what it makes, steps at SCALE=1, the script and its options
    result="$1" steps="$2"
    shift 2
    run "$result" "$python" "$@" --max-steps $((($steps + scale - 1) / scale)) --num-threads "$OMP_NUM_THREADS"
}
prepare() { # folder, first seed, dyads at SCALE=1, options
    folder="$1" first="$2" count=$((($3 + scale - 1) / scale))
    shift 3
    last="$(printf 'dyads-%07d.safetensors' $((first + (count - 1) / 50 * 50)))"
    [ ! -e "$runs/users/tokenizer" ] || set -- --tokenizer "$runs/users/tokenizer" "$@"
    run "$folder/$last" "$python" examples/train/prepare_dyads.py --out "$folder" --first-seed "$first" --num-dyads "$count" \
        "$@" --num-threads "$OMP_NUM_THREADS"
}

audio="$runs/audio_vae/audio_vae"
video="$runs/video_vae/video_vae"
screen="$runs/video_screen/video_vae" # the same latents; its decoder forgives what a model gets wrong in them
decoder="$runs/audio_decoder/audio_decoder"
learn "$audio" 9000 examples/train/train_audio_vae.py --run "$runs/audio_vae"
learn "$video" 6000 examples/train/train_video_vae.py --run "$runs/video_vae" --agent-share 1 --precision bf16-mixed
learn "$screen" 3000 examples/train/train_video_vae.py --run "$runs/video_screen" --agent-share 1 --precision bf16-mixed \
    --start-from "$video" --decoder-only --latent-noise 0.2 --learning-rate 1e-3
learn "$decoder" 1500 examples/train/train_decoders.py --what audio --vae "$audio" --run "$runs/audio_decoder"
prepare "$runs/users" 0 10000
# Many answers need many examples: names, sums, colours and objects; and the one thing that is told by a mouth.
prepare "$runs/users" 10000 3000 --scenarios "smile smile plus plus recall recall myname object color"
prepare "$runs/users" 13000 2000 --scenarios "smile smile smile object color fingers did"
prepare "$runs/val" 1000000 192 --audio-vae "$audio" --video-vae "$video"
prepare "$runs/dyads" 200000 2400 --audio-vae "$audio" --video-vae "$video"
for sense in "eyes video_encoder 4000" "ears audio_encoder 2500"; do
    # shellcheck disable=SC2086
    set -- $sense
    learn "$runs/$1/$2" "$3" examples/train/train_senses.py --sense "$1" --users "$runs/users" --val-dyads "$runs/val" \
        --run "$runs/$1"
done
streamer() { # run, steps at SCALE=1, options
    folder="$runs/$1" steps="$2"
    shift 2
    learn "$folder/streamer" "$steps" examples/train/train_streamer.py --run "$folder" --dyads "$runs/dyads" \
        --users "$runs/users" --val-dyads "$runs/val" --audio-vae "$audio" --video-vae "$video" "$@"
}
streamer stage1 4000 --stage 1 --audio-encoder "$runs/ears/audio_encoder" --video-encoder "$runs/eyes/video_encoder"
streamer stage2 5000 --stage 2 --start-from "$runs/stage1" --history-dropout 0.15
streamer stage3 300 --stage 3 --start-from "$runs/stage2"
streamer student 150 --stage 3 --phase self-forcing --start-from "$runs/stage3" --teacher "$runs/stage2" \
    --batch-size 2 --learning-rate 1e-4
run "$runs/wan-streamer-tiny" "$python" examples/train/assemble_checkpoint.py --out "$runs/wan-streamer-tiny" \
    --streamer-run "$runs/student" --num-inference-steps 2 --audio-vae "$audio" --video-vae "$screen" \
    --audio-decoder "$decoder" --card examples/train/wan-streamer-tiny.md
run "$runs/world" "$python" examples/duplex_world/build_world.py --split test --num-dyads 216 --dyads-per-shard 72 --out "$runs/world"
# shellcheck disable=SC2086
run "$runs/score/score.html" "$(dirname "$python")/wan-streamer" eval "$runs/wan-streamer-tiny" --dataset "$runs/world" \
    --out "$runs/score" ${EVAL:-}
