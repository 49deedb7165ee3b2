# The front door. Each target installs what is missing from Debian, says what it does, and works on
# a fresh Debian 12. `make help` lists them.
m ?=
B := build$(if $(m),-$(m))
SETUP_asan := -Db_sanitize=address,undefined -Db_lundef=false
SETUP_tsan := -Db_sanitize=thread -Db_lundef=false
SETUP_cov  := -Db_coverage=true
SETUP_fuzz := -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false
CC_fuzz    := CC=clang

all: build

help:
	@echo "make                install what is missing, build build/cleave"
	@echo "make run            build, and boot a stock Debian 12 to its login (builds that first, once)"
	@echo "make shell          build, and boot a stock Debian kernel to a shell of busybox"
	@echo "make check          build, and run every test this host can run"
	@echo "make check m=asan   the same under ASan and UBSan; also m=tsan, m=cov"
	@echo "make bench          ratios against peers and native"
	@echo "make lint           format, headers, includes, cppcheck"
	@echo "make fuzz t=SECONDS each fuzzer for so long (default 60)"
	@echo "make install        install program, library, man pages (DESTDIR, PREFIX)"

build: $(B)/build.ninja
	@ninja -C $(B) --quiet

$(B)/build.ninja:
	@scripts/install-deps build
	@echo "Configuring $(B)"
	@$(CC_$(m)) meson setup $(B) $(SETUP_$(m)) >/dev/null

run: build
	@scripts/install-deps build image
	@$(B)/cleave run debian:12 --cpus 2

shell: build
	@scripts/install-deps build guests
	@scripts/run-guest $(B)/cleave

check: build
	@scripts/install-deps build test guests image
	@scripts/check $(B) $(suite)

bench: build
	@scripts/install-deps build guests bench
	@bench/run $(B)

lint: build
	@scripts/install-deps build lint
	@scripts/lint $(B)

t ?= 60
fuzz:
	@scripts/install-deps build fuzz
	@$(MAKE) --no-print-directory build m=fuzz
	@scripts/fuzz build-fuzz $(t)

# meson bakes the prefix into the build folder (cleave.pc names it), so it is set anew every time.
PREFIX ?= /usr/local
MESON := meson
install: build
	@$(MAKE) --no-print-directory install-files

install-files:
	@$(MESON) configure $(B) '-Dprefix=$(PREFIX)' -Dlibdir=lib
	@ninja -C $(B) --quiet >/dev/null
	@DESTDIR='$(DESTDIR)' $(MESON) install -C $(B) --no-rebuild --quiet

clean:
	rm -rf build build-asan build-tsan build-cov build-fuzz

.PHONY: all help build run shell check bench lint fuzz install install-files clean
