# The project's verbs. CI calls these, and the README's own commands.
SWIFT ?= swift
CLANG_FORMAT ?= clang-format
PYTHON ?= python3
C_FILES = $(shell git ls-files '*.c' '*.h' '*.inl' '*.cu' '*.cuh')

.PHONY: build test kernels check-kernels bench format lint golden gpu-bundle install

build:
	$(SWIFT) build -c release

test:
	$(SWIFT) test

# Needs two packages of PyPI, which the script names; no GPU.
kernels:
	$(PYTHON) Scripts/make-kernels

check-kernels:
	$(PYTHON) Scripts/make-kernels --check

bench: build
	.build/release/tandem bench --model facebook/opt-1.3b

format:
	$(SWIFT) format --in-place --recursive --parallel Sources Tests Package.swift
	$(CLANG_FORMAT) -i $(C_FILES)

lint:
	$(SWIFT) format lint --strict --recursive --parallel Sources Tests Package.swift
	$(CLANG_FORMAT) --dry-run --Werror $(C_FILES)
	Scripts/check-layers

# Needs torch, transformers, safetensors and tokenizers.
golden:
	python3 Tests/Fixtures/make_golden.py
	python3 Tests/Fixtures/make_golden.py storybook

# The program and the tests with the libraries they need, for a machine without Swift.
gpu-bundle:
	Scripts/make-bundle gpu-bundle

PREFIX ?= /usr/local
install: build
	install -D .build/release/tandem $(DESTDIR)$(PREFIX)/bin/tandem
	install -d $(DESTDIR)$(PREFIX)/share/tandem/Models
	cp -R Models/storybook $(DESTDIR)$(PREFIX)/share/tandem/Models/
