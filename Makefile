# The front door. `make demo` and `make test` need Python >= 3.11 and make, nothing else.
RUN := .venv/bin
READY := .venv/.ready

.PHONY: help demo up test check bench protos image lock

help:  ## List what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: $(READY)  ## The life of one change, on real servers, printed step by step
	$(RUN)/python -m services.cli.main demo

up: $(READY)  ## Start everything and keep it: PostgreSQL, Valkey, OpenBao, seven services
	$(RUN)/python -m services.cli.main up

test: $(READY)  ## The whole test suite, in parallel, on real servers
	$(RUN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(READY)  ## Formatting, lint, types, contracts, import rules
	$(RUN)/python -m ruff format --check . && $(RUN)/python -m ruff check .
	$(RUN)/python -m mypy
	$(RUN)/python protos/make.py check
	$(RUN)/lint-imports

bench: $(READY)  ## Ratios against the raw thing in the same run; ONLY=name,name for some
	$(RUN)/python -m tests.bench $(ONLY)

protos: $(READY)  ## Generate the Python code of the protos
	$(RUN)/python protos/make.py generate

image: $(READY)  ## The contract as one self-contained descriptor set: build/triptych.binpb
	$(RUN)/python protos/make.py image

lock: $(READY)  ## Pin every dependency anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras --upgrade pyproject.toml -o requirements.lock

$(READY): requirements.lock pyproject.toml deploy/install.sh
	sh deploy/install.sh
