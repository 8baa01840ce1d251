# Every target but help, docs and clean runs docker/bootstrap.sh first (one second when nothing
# changed) and then in the environment of docker/env.sh.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo up test lint docs eval train pair bench faults soak study report bootstrap \
  clean distclean

# More arguments for the command of a target:  make train ARGS="--alpha 0"
ARGS ?=

IN_ENV := source docker/env.sh &&
ROBOT := sf_bringup/config/robots/sim_arm.yaml
NANO := sf_bringup/config/policies/nano
TRAIN_NANO := --contract $(ROBOT) --seed 0 --steps 4500 --validate-every 500 \
  --evaluate-every 1500 --evaluation-episodes 40
PAIR := sf_bringup/config/robots/piper_pair.yaml
TRAIN_PAIR := --contract $(PAIR) --seed 0 --validate-every 500
TRAIN_STUDY := --contract $(ROBOT) --steps 1600 --decay-share 0 --validate-every 400 \
  --evaluate-every 400 --evaluation-episodes 40

# Run tests on all cores, four at most. Tests that start nodes come last, one by one (conftest.py).
# In one process:  make test ARGS="-n 0"
SHARED := -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

help:  ## this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

demo: bootstrap  ## five instructions to the simulated arm over ROS; writes out/demo/
	$(IN_ENV) exec python3 -m sf_bringup.demo $(ARGS)

up: bootstrap  ## the simulated arm and the policy, until Ctrl-C
	$(IN_ENV) exec python3 -m sf_bringup.up robot:=sim_arm policy:=nano $(ARGS)

test: bootstrap lint  ## lint, unit tests and system tests
	$(IN_ENV) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} exec python3 -m pytest $(SHARED) $(ARGS)

lint: bootstrap  ## ruff (rules, layout) and mypy (types)
	$(IN_ENV) ruff check . && ruff format --check --quiet . && mypy

docs:  ## the documentation site, links checked; writes out/docs (makes .venv-docs)
	@test -x .venv-docs/bin/mkdocs || { \
	  echo "docs: installing mkdocs into .venv-docs, a minute or two"; python3 -m venv .venv-docs; }
	.venv-docs/bin/python -m pip install -q -r docker/requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict \
	  -f sf_bringup/doc/site/mkdocs.yml -d "$(CURDIR)/out/docs" $(ARGS)

eval: bootstrap  ## 100 seeded episodes without ROS and 20 over ROS; writes out/eval/summary.json
	$(IN_ENV) python3 -m sf_training.simulation.evaluate --checkpoint $(NANO) \
	  --contract $(ROBOT) $(ARGS)
	$(IN_ENV) exec python3 -m sf_bringup.evaluate_over_ros

train: bootstrap  ## 500 demonstrations where missing, then the training of the shipped nano
	$(IN_ENV) python3 -m sf_training.simulation.demonstrations --out out/demos \
	  --contract $(ROBOT) --episodes 500
	$(IN_ENV) exec python3 -m sf_training.training.train --data out/demos \
	  --out out/nano $(TRAIN_NANO) $(ARGS)

pair: bootstrap  ## two Piper arms: demonstrations and both trainings of the shipped nano_pair
	$(IN_ENV) python3 -m sf_training.simulation.demonstrations --out out/demos_pair \
	  --contract $(PAIR) --episodes 320
	$(IN_ENV) python3 -m sf_training.training.train --data out/demos_pair \
	  --out out/nano_pair_first $(TRAIN_PAIR) --steps 1500 --decay-share 0
	$(IN_ENV) python3 -m sf_training.simulation.demonstrations --out out/demos_pair_slips \
	  --contract $(PAIR) --seed 320 --episodes 96 --slips
	$(IN_ENV) exec python3 -m sf_training.training.train \
	  --data out/demos_pair out/demos_pair_slips --student.weights out/nano_pair_first \
	  --out out/nano_pair $(TRAIN_PAIR) --steps 1200 $(ARGS)

bench: bootstrap  ## motion, latencies, simulation and training speed; writes out/bench*
	$(IN_ENV) PYTHONPATH=tests:$$PYTHONPATH exec python3 -m bench.run $(ARGS)

faults: bootstrap  ## each fault in turn while the arm moves; writes out/faults.json
	$(IN_ENV) PYTHONPATH=tests:$${PYTHONPATH:-} OMP_NUM_THREADS=1 exec python3 -m faults.run $(ARGS)

soak: bootstrap  ## random faults for an hour (ARGS="--minutes 5" for less); writes out/soak.json
	$(IN_ENV) PYTHONPATH=tests:$${PYTHONPATH:-} OMP_NUM_THREADS=1 exec python3 -m faults.soak $(ARGS)

study: bootstrap  ## Spatial Forcing beside its controls, 3 seeds each: two hours; then make report
	$(IN_ENV) python3 -m sf_training.simulation.demonstrations --out out/demos \
	  --contract $(ROBOT) --episodes 500
	$(IN_ENV) for seed in 0 1 2; do \
	    for teacher in pointmap none rgb mean random; do echo $$teacher $$seed; done; \
	  done | OMP_NUM_THREADS=1 xargs -P2 -L1 bash -c \
	    'exec python3 -m sf_training.training.train --data out/demos \
	    --out out/study/$${0}_s$$1 --teacher $$0 --seed $$1 $(TRAIN_STUDY) > out/study_$${0}_s$$1.log'

report: bootstrap  ## curves and table of the study; writes out/report/
	$(IN_ENV) exec python3 -m sf_training.training.report --runs out/study --out out/report $(ARGS)

bootstrap:  ## virtual environment, ROS 2, packages, colcon build
	@docker/bootstrap.sh

clean:  ## remove what builds and tools leave; keeps .venv, data/ and out/
	rm -rf build install log .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -path './.venv*' -prune -o -path ./.git -prune -o \
	  -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean  ## clean, and remove .venv
	rm -rf .venv .venv-docs
