# Few verbs, the same for people and for CI. `make demo` and `make test` need Python 3.11+ and a package index, nothing else.
PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS := deploy/constraints.txt
INSTALLED := .venv/installed
# Two thread pools that spin on few cores slow one another many times; each process keeps to one thread.
export OMP_NUM_THREADS := 1

.PHONY: demo test test-cases test-long test-learning test-kills test-trainer-kills test-ray test-fer2013 test-postgresql test-traffic certificates wheel test-deploy test-soak check bench-agent bench-capacity bench-client bench-prune bench-replicas bench-styles bench-peers bench-trainer fmt proto dashboards picture lock clean

demo: $(INSTALLED) ## train children under a learning agent on real images; ends with Table 1 and pictures
	@$(BIN)/python -m trainer_service.cli.demo

test: $(INSTALLED) ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=12

CASES ?=
ONLY ?=
test-cases: $(INSTALLED) ## the scripts in CASES=DIR by DIR/run.py, each a fault that must not come back; ONLY="client two_servers" picks some
	@test -f "$(CASES)/run.py" || { echo "CASES=DIR is needed: a folder of cases with a run.py"; exit 2; }
	@$(BIN)/python "$(CASES)/run.py" "$(CURDIR)" $(ONLY)

test-long: $(INSTALLED) ## all that takes too long for `make test`, one after another, and a page of it, tests/data/long.md; some 100 minutes; TARGETS="test-kills test-ray" picks some
	@$(BIN)/python -m tests.end_to_end.long $(TARGETS)

SEEDS ?= 1 2 3
test-learning: $(INSTALLED) ## a shared controller learns to adapt, with each of SEEDS; some 2 minutes
	@$(BIN)/python -m tests.end_to_end.learning $(SEEDS)

KILLS ?= 200
test-kills: $(INSTALLED) ## KILLS of server and learner under load, and what must be true afterwards; some 15 minutes
	@$(BIN)/python -m tests.end_to_end.kills $(KILLS)

TRAINER_KILLS ?= 50
test-trainer-kills: $(INSTALLED) ## TRAINER_KILLS of trainer, child processes and agent, and every run must end as one left alone; some 8 minutes
	@$(BIN)/python -m tests.end_to_end.trainer_kills $(TRAINER_KILLS)

CHILDREN ?= 200
test-ray: $(INSTALLED) ## runs, and a study of CHILDREN, on a cluster of Ray whose nodes are killed, and the same without
	@$(BIN)/python -m pytest -q tests/end_to_end/ray_faults.py
	@$(BIN)/python -m tests.end_to_end.ray_study $(CHILDREN)

DATA ?= data
test-fer2013: $(INSTALLED) ## a narrow child learns on FER2013's own images, DATA=DIR with DIR/fer2013; some 3 minutes
	@$(BIN)/python -m tests.end_to_end.fer2013 $(DATA)

RACES ?= 1000
test-postgresql: $(INSTALLED) ## what holds of the agent service on SQLite holds on PostgreSQL, and RACES; some 10 minutes
	TEST_STORE=postgresql RACES=$(RACES) $(BIN)/python -m pytest -q tests/agent_service tests/end_to_end/test_replicas.py

MINUTES ?= 20
test-soak: $(INSTALLED) ## MINUTES of random faults of replicas, learners, database and network, and what must be true afterwards; Linux, as root
	@unshare --net $(BIN)/python -m tests.end_to_end.soak $(MINUTES)

REQUESTS ?= 100000
test-traffic: $(INSTALLED) ## generated REQUESTS and floods of frames, and what must be true afterwards; some 15 minutes
	@$(BIN)/python -m tests.end_to_end.traffic_run $(REQUESTS)

NAMES ?=
test-deploy: $(INSTALLED) ## images, compose and faults on a container engine that this makes; Debian, as root; some 20 minutes
	@$(BIN)/python -m tests.deploy

wheel: $(INSTALLED) ## the distribution to publish, in dist/: the client, and by extras the services
	$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist .

certificates: ## a certificate authority, certificates and tokens in deploy/secrets, or renew them; NAMES="agent.example.org" adds host names
	@deploy/certificates.sh deploy/secrets $(NAMES)

check: $(INSTALLED) ## format, lint, types, import contracts, contracts on the wire; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint --config .buf.yaml
	@for release in tests/data/contracts/*.binpb; do $(BIN)/buf breaking --config .buf.yaml --against $$release || exit 1; done
	$(BIN)/python -m pytest -q tests/test_generated_code.py

bench-agent: $(INSTALLED) ## how fast the agent answers, as ratios to references of the same run; some 5 minutes
	@$(BIN)/python -m tests.benchmarks.bench_agent

ROWS ?= 10000000
bench-capacity: $(INSTALLED) ## what one agent carries, on stores of no row and of ROWS; 4 GB of disk
	@$(BIN)/python -m tests.benchmarks.bench_capacity $(ROWS)

bench-client: $(INSTALLED) ## what the client costs a training script, a step and a report; some 2 minutes
	@$(BIN)/python -m tests.benchmarks.bench_client

bench-prune: $(INSTALLED) ## what pruning costs who reports meanwhile, and how small an archive is
	@$(BIN)/python -m tests.benchmarks.bench_prune

bench-replicas: $(INSTALLED) ## one agent on SQLite, one and two on PostgreSQL, under the same load
	@$(BIN)/python -m tests.benchmarks.bench_replicas

bench-styles: $(INSTALLED) ## which style of gRPC server answers best; some 90 s
	@$(BIN)/python -m tests.benchmarks.bench_styles

bench-peers: $(INSTALLED) .venv-peers/installed .venv-rllib/installed ## decisions a second beside OSS Vizier, Optuna and RLlib; some 5 minutes
	@$(BIN)/python -m tests.benchmarks.bench_peers

# Vizier's newest JAX fails to import, so it is held back.
.venv-peers/installed:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check 'google-vizier[jax]==0.1.24' jax==0.4.35 jaxlib==0.4.34 optuna==4.9.0 grpcio
	touch $@

# The last RLlib whose policy server runs by itself, and what it ran with.
.venv-rllib/installed:
	$(PYTHON) -m venv .venv-rllib
	.venv-rllib/bin/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch
	.venv-rllib/bin/pip install --quiet --disable-pip-version-check 'ray[rllib]==2.10.0' gymnasium==0.28.1 'numpy<2' 'pyarrow<17'
	touch $@

bench-trainer: $(INSTALLED) ## how fast training is, as ratios to bare loops of the same run; some 18 minutes
	@$(BIN)/python -m tests.benchmarks.bench_trainer

fmt: $(INSTALLED) ## format the code and sort the imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PROTOS := agent_service/v1/agent.proto trainer_service/v1/trainer.proto
proto: $(INSTALLED) ## generate */v1/ from proto/
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

dashboards: $(INSTALLED) ## write deploy/grafana/dashboards/ from the code beside it
	$(BIN)/python -m deploy.grafana.generate

picture: $(INSTALLED) ## draw panels of the dashboards from a study that Prometheus scrapes; some 5 minutes
	$(BIN)/python -m tests.deploy.picture

# torch first and by its exact pin: the build at hand is taken, and nothing that follows replaces it. grad-cam comes
# as source only, so it is built before the last line, which builds with what is installed.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %s. Name another: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) hatchling editables grad-cam
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --no-build-isolation --editable '.[dev]'
	touch $@

lock: $(INSTALLED) ## write the versions that are installed now into the constraints
	{ echo "# Every package of a full installation, pinned; written by 'make lock'."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > $(CONSTRAINTS)

clean: ## remove what is generated here, the environment included
	rm -rf .venv .venv-peers .venv-rllib .engine dist demo-results bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
