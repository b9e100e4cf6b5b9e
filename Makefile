# SPDX-License-Identifier: Apache-2.0
# `make demo` or `make test` from a fresh clone: both set everything up first.
PYTHON ?= python3
RUN := .venv/bin/python

# A Python of another venv with ROS wheels may have started make; its marks must not reach ours.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup demo test lint types docs lock audit soak fuzz bugs assets clean
# Everything that a test may need of ROS: field checks are off by default in the wheels.
ROS_ENV := ROS_PYTHON_CHECK_FIELDS=1 ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_LOCALHOST_ONLY=1
FLOOR := 90

help:
	@echo "make setup   .venv with everything in it, messages built (uses a sourced ROS 2, else PyPI's wheels)"
	@echo "make demo    the real node follows a target in a real video; results in out/demo"
	@echo "make test    ruff, mypy, the test suite and its coverage (PYTEST_ARGS=... for a part)"
	@echo "make lint    ruff;  make types   mypy"
	@echo "make docs    docs/reference.md from the code's declarations"
	@echo "make soak    the node at full rate for an hour (SECONDS=...); plot in out/soak"
	@echo "make fuzz    coverage-guided fuzzing of every door (SECONDS=... for each)"
	@echo "make bugs    plant a bug behind each promise and see a test fail"
	@echo "make lock    requirements*.lock anew;  make audit   known vulnerabilities of what is locked"
	@echo "make assets  pictures and cut-outs that training needs"
	@echo "make clean   remove what setup and builds made"

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	$(RUN) demo/run.py --out out/demo

# The floor is for the whole suite: a part of it covers less.
test: lint types
	rm -rf out/coverage
	$(ROS_ENV) $(RUN) -m coverage run -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report $(if $(PYTEST_ARGS),,--fail-under=$(FLOOR))

lint: setup
	$(RUN) -m ruff check .

types: setup
	$(RUN) -m mypy

docs: setup
	$(ROS_ENV) $(RUN) tools/reference.py

lock: setup
	$(RUN) -m venv build/uv && build/uv/bin/pip install -q uv==0.13.9 && build/uv/bin/python tools/lock.py

# Asks a vulnerability service; without a network it says so and is no failure.
audit: setup
	$(RUN) tools/audit.py

soak: SECONDS ?= 3600
soak: setup
	$(ROS_ENV) $(RUN) tests/ros/soak.py --seconds $(SECONDS) --out out/soak

fuzz: SECONDS ?= 60
fuzz: setup
	$(RUN) -m pip install -q atheris==3.0.0
	for door in bag box compressed config dataset image parameters sequence text weights; do \
		$(RUN) tests/fuzz.py $$door --seconds $(SECONDS) || exit 1; done

bugs: setup
	$(ROS_ENV) $(RUN) tools/plant_bugs.py

assets: setup
	$(RUN) -m vlt_ros.training.assets

clean:
	rm -rf .venv build install log out
