# SPDX-License-Identifier: Apache-2.0
# `make demo` or `make test` from a fresh clone: both set everything up first.
PYTHON ?= python3
RUN := .venv/bin/python

# A Python of another venv with ROS wheels may have started make; its marks must not reach ours.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup demo test lint assets clean

help:
	@echo "make setup   .venv with everything in it, messages built (uses a sourced ROS 2, else PyPI's wheels)"
	@echo "make demo    the real node follows a target in a real video; results in out/demo"
	@echo "make test    the test suite"
	@echo "make lint    ruff"
	@echo "make assets  pictures and cut-outs that training needs"
	@echo "make clean   remove what setup and builds made"

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	$(RUN) demo/run.py --out out/demo

# Field checks are off by default in the wheels: without them a wrong type in a message goes unseen.
test: setup
	ROS_PYTHON_CHECK_FIELDS=1 ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_LOCALHOST_ONLY=1 \
		$(RUN) -m pytest $(PYTEST_ARGS)

lint: setup
	$(RUN) -m ruff check .

assets: setup
	$(RUN) -m vlt_ros.training.assets

clean:
	rm -rf .venv build install log out
